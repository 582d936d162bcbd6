"""What Redis tells at a scrape: queues, live workers, and counts that no single process can keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from contract.base import LANES, Lane, queue_name
from contract.card import ModelCard
from contract.events import Returned
from contract.job import Status
from contract.redis_keys import JOBS_KEY, RETRIES_KEY, UNSERVED_KEY, queue_key, serving_key, unserved_field
from core.clock import AHEAD, AHEAD_MEANS, CLOCK
from jobs.layout import evicting_policy

REASONS: tuple[str, ...] = get_args(Returned.model_fields["why"].annotation)
UNSERVED: tuple[Status, ...] = ("failed", "canceled")  # nothing succeeds without a worker


@dataclass(frozen=True, slots=True)
class RedisSnapshot:
    """One look at Redis. Counts begin at 0, so that a first one is a rise."""

    workers: dict[str, int]  # by model
    lanes: dict[tuple[str, Lane], tuple[int, float]]  # jobs that wait, and the age of the oldest
    retries: dict[str, int]
    unserved: dict[str, int]
    evicts: bool = False


async def read_snapshot(redis: Redis, cards: Mapping[str, ModelCard]) -> RedisSnapshot:
    """Read what Redis tells of the models with these cards.

    Raises:
        RedisError: Redis is away.
    """
    retries: Any = await redis.hgetall(RETRIES_KEY)
    unserved: Any = await redis.hgetall(UNSERVED_KEY)
    return RedisSnapshot(
        {model: int(await redis.zcount(serving_key(model), CLOCK.unix(), "+inf")) for model in cards},
        {(model, lane): await _lane(redis, model, lane) for model in cards for lane in LANES},
        _from_zero(REASONS, retries),
        _from_zero(_expected(cards), unserved),
        await _evicts(redis),
    )


async def _evicts(redis: Redis) -> bool:
    """Whether Redis may remove keys of jobs; no, where it may not be asked."""
    try:
        return evicting_policy(await redis.info("memory")) is not None
    except NoPermissionError:
        return False


async def _lane(redis: Redis, model: str, lane: Lane) -> tuple[int, float]:
    key = queue_key(queue_name(model, lane))
    depth, oldest = int(await redis.llen(key)), await redis.lindex(key, 0)
    created_ms = await redis.zscore(JOBS_KEY, oldest) if oldest else None
    return depth, 0.0 if created_ms is None else max(CLOCK.unix() - float(created_ms) / 1000, 0.0)


def _expected(cards: Mapping[str, ModelCard]) -> Iterator[str]:
    for card in cards.values():
        for kind in card.tasks:
            for lane in LANES:
                yield from (unserved_field(kind, card.id, lane, status) for status in UNSERVED)


def _from_zero(fields: Iterator[str] | tuple[str, ...], counts: Mapping[str, str]) -> dict[str, int]:
    return dict.fromkeys(fields, 0) | {field: int(count) for field, count in counts.items()}


class RedisFamilies(Collector):
    """The families of what was read last; only `latentd_redis_up` has a value while Redis is away."""

    def __init__(self) -> None:
        self.snapshot: RedisSnapshot | None = None

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("latentd_redis_up", "Whether Redis answered this scrape: 1, else 0.")
        up.add_metric((), float(self.snapshot is not None))
        yield up
        ahead = GaugeMetricFamily(AHEAD, AHEAD_MEANS)
        ahead.add_metric((), CLOCK.own_ahead_s())
        yield ahead
        snapshot = self.snapshot or RedisSnapshot({}, {}, {}, {})
        evicts = GaugeMetricFamily("latentd_redis_may_evict", "Whether Redis removes keys when its memory is full.")
        if self.snapshot is not None:
            evicts.add_metric((), float(snapshot.evicts))
        yield evicts
        yield from _queues(snapshot)
        yield from _counts(snapshot)


def _queues(snapshot: RedisSnapshot) -> Iterator[Metric]:
    lane = ("model", "lane")
    depth = GaugeMetricFamily("latentd_queue_depth", "Jobs that wait in a lane.", labels=lane)
    oldest = GaugeMetricFamily(
        "latentd_queue_oldest_seconds", "Age of the job that has waited longest in a lane.", labels=lane
    )
    for labels, (waiting, age) in snapshot.lanes.items():
        depth.add_metric(labels, waiting)
        oldest.add_metric(labels, age)
    workers = GaugeMetricFamily("latentd_workers", "Live workers that serve a model.", labels=("model",))
    for model, count in snapshot.workers.items():
        workers.add_metric((model,), count)
    yield from (depth, oldest, workers)


def _counts(snapshot: RedisSnapshot) -> Iterator[Metric]:
    retries = CounterMetricFamily("latentd_retries", "Jobs queued again, by all workers.", labels=("reason",))
    for reason, count in snapshot.retries.items():
        retries.add_metric((reason,), count)
    unserved = CounterMetricFamily(
        "latentd_jobs_unserved",
        "Jobs that no worker ended: late or cancelled while they waited, or quarantined.",
        labels=("kind", "model", "lane", "outcome"),
    )
    for field, count in snapshot.unserved.items():
        unserved.add_metric(field.split(":"), count)
    yield from (retries, unserved)
