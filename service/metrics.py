"""The gateway's Prometheus families: requests, latency, queue depth and age, rejections. Labels are bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from redis.asyncio import Redis

from service.contract import JOBS_KEY, LANES, RETRIES_KEY, Lane, queue_name, serving_key
from service.marks import Returned
from service.queue import queue_key

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Retries(Collector):
    """Jobs queued again, as Redis counts them: a worker that stops or died can't tell of it any more."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(get_args(Returned.model_fields["why"].annotation), 0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("latentd_retries", "Jobs queued again, by all workers.", labels=("reason",))
        for reason, count in self.counts.items():
            family.add_metric((reason,), count)
        yield family


class Metrics:
    """Families of one gateway process in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "latentd_http_requests", "HTTP requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "latentd_http_request_seconds",
            "Seconds until the end of an answer, streams and waits included.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.depth = Gauge(
            "latentd_queue_depth", "Jobs that wait in a lane.", ["model", "lane"], registry=self.registry
        )
        self.oldest = Gauge(
            "latentd_queue_oldest_seconds",
            "Age of the job that has waited longest in a lane.",
            ["model", "lane"],
            registry=self.registry,
        )
        self.workers = Gauge("latentd_workers", "Live workers that serve a model.", ["model"], registry=self.registry)
        self.rejected = Counter(
            "latentd_rejected", "Requests refused, by the problem's slug.", ["reason"], registry=self.registry
        )
        self.retries = Retries()
        self.registry.register(self.retries)

    async def render(self, redis: Redis, models: Mapping[str, object]) -> bytes:
        """The text format, with the queues as they are now."""
        retries: Any = await redis.hgetall(RETRIES_KEY)
        for reason, count in retries.items():
            self.retries.counts[reason] = int(count)
        for model in models:
            self.workers.labels(model).set(await redis.zcount(serving_key(model), time.time(), "+inf"))
            for lane in LANES:
                depth, age = await _queue(redis, model, lane)
                self.depth.labels(model, lane).set(depth)
                self.oldest.labels(model, lane).set(age)
        return generate_latest(self.registry)


async def _queue(redis: Redis, model: str, lane: Lane) -> tuple[int, float]:
    key = queue_key(queue_name(model, lane))
    depth, oldest = int(await redis.llen(key)), await redis.lindex(key, 0)
    created_ms = await redis.zscore(JOBS_KEY, oldest) if oldest else None
    return depth, 0.0 if created_ms is None else max(time.time() - float(created_ms) / 1000, 0.0)
