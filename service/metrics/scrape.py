"""What Redis tells at a scrape: queues, live workers, and counts that no single process can keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from contract.base import LANES, Lane, queue_name
from contract.card import ModelCard
from contract.events import Returned
from contract.job import Status
from contract.redis_keys import (
    RETRIES_KEY,
    UNSERVED_KEY,
    queue_key,
    queued_job_key,
    refused_key,
    serving_key,
    unserved_field,
)
from core.clock import AHEAD, AHEAD_MEANS, CLOCK
from jobs.layout import evicting_policy

REASONS: tuple[str, ...] = get_args(Returned.model_fields["why"].annotation)
UNSERVED: tuple[Status, ...] = ("failed", "canceled")  # nothing succeeds without a worker

LOOKED = 500

# KEYS: who serves a model; its waiting lists. ARGV: now.
# Answers how many live workers serve it, then of each list: the jobs that some worker can run, those that all live
# workers have refused, and since when the former wait, by the LOOKED first of them: those that came back stand there.
_QUEUES = f"""
local live, parked = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], '+inf'), {{}}
if #live > 0 then
  local refused = {{}}
  for i, member in ipairs(live) do refused[i] = '{refused_key("")}' .. string.match(member, '^[^@]*') end
  for _, id in ipairs(redis.call('ZINTER', #refused, unpack(refused))) do parked[id] = true end
end
local told = {{#live}}
for i = 2, #KEYS do
  local count, looked, oldest = 0, 0, false
  for _, id in ipairs(redis.call('LRANGE', KEYS[i], 0, next(parked) and -1 or {LOOKED - 1})) do
    if parked[id] then
      count = count + 1
    elseif looked < {LOOKED} then
      looked = looked + 1
      local since = redis.call('HGET', '{queued_job_key("")}' .. id, 'enqueued_at')
      if since and since ~= '' and (not oldest or since < oldest) then oldest = since end
    end
  end
  told[#told + 1] = {{redis.call('LLEN', KEYS[i]) - count, count, oldest or ''}}
end
return told
"""


class LaneQueued(NamedTuple):
    """Jobs of a lane that wait: for workers that can run them, for any that can; and the age of the oldest former."""

    depth: int
    parked: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class RedisSnapshot:
    """One look at Redis. Counts begin at 0, so that a first one is a rise."""

    workers: dict[str, int]  # by model
    lanes: dict[tuple[str, Lane], LaneQueued]
    retries: dict[str, int]
    unserved: dict[str, int]
    evicts: bool = False
    memory: float = 0.0  # the share of `maxmemory` that is used; 0 where there is no bound, or it isn't told


async def read_snapshot(redis: Redis, cards: Mapping[str, ModelCard]) -> RedisSnapshot:
    """Read what Redis tells of the models with these cards.

    Raises:
        RedisError: Redis is away.
    """
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(RETRIES_KEY)
        pipe.hgetall(UNSERVED_KEY)
        for model in cards:
            keys = [serving_key(model), *(queue_key(queue_name(model, lane)) for lane in LANES)]
            pipe.eval(_QUEUES, len(keys), *keys, CLOCK.unix())
        retries, unserved, *queues = await pipe.execute()
    told = dict(zip(cards, queues, strict=True))
    return RedisSnapshot(
        {model: int(answer[0]) for model, answer in told.items()},
        {
            (model, lane): _queued(*each)
            for model, answer in told.items()
            for lane, each in zip(LANES, answer[1:], strict=True)
        },
        _from_zero(REASONS, retries),
        _from_zero(_expected(cards), unserved),
        *await _memory(redis),
    )


async def _memory(redis: Redis) -> tuple[bool, float]:
    """Whether Redis may remove keys of jobs, and how full it is; no and 0, where it may not be asked."""
    try:
        told = await redis.info("memory")
    except NoPermissionError:
        return False, 0.0
    bound = int(told.get("maxmemory", 0))
    return evicting_policy(told) is not None, int(told["used_memory"]) / bound if bound else 0.0


def _queued(depth: int, parked: int, since: str) -> LaneQueued:
    waited_s = CLOCK.unix() - datetime.fromisoformat(since).timestamp() if since else 0.0
    return LaneQueued(depth, parked, max(waited_s, 0.0))


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
        memory = GaugeMetricFamily(
            "latentd_redis_memory_ratio", "Share of its maxmemory that Redis uses; 0 where it has no bound."
        )
        if self.snapshot is not None:
            memory.add_metric((), snapshot.memory)
        yield memory
        yield from _queues(snapshot)
        yield from _counts(snapshot)


def _queues(snapshot: RedisSnapshot) -> Iterator[Metric]:
    lane = ("model", "lane")
    depth = GaugeMetricFamily("latentd_queue_depth", "Jobs that wait in a lane, parked ones left out.", labels=lane)
    parked = GaugeMetricFamily(
        "latentd_jobs_parked",
        "Jobs that wait though each live worker of their model has left them to others.",
        labels=lane,
    )
    oldest = GaugeMetricFamily(
        "latentd_queue_oldest_seconds",
        "Seconds since the first job of a lane, parked ones left out, came into its queue.",
        labels=lane,
    )
    for labels, queued in snapshot.lanes.items():
        depth.add_metric(labels, queued.depth)
        parked.add_metric(labels, queued.parked)
        oldest.add_metric(labels, queued.oldest_s)
    workers = GaugeMetricFamily("latentd_workers", "Live workers that serve a model.", labels=("model",))
    for model, count in snapshot.workers.items():
        workers.add_metric((model,), count)
    yield from (depth, parked, oldest, workers)


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
