"""The gateway's Prometheus families: requests, latency, jobs accepted, rejections; and what Redis tells. Labels are
bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contract.card import ModelCard
from contract.request import JobRequest
from core.errors import LatentdError
from service.metrics.scrape import RedisFamilies, RedisSnapshot, read_snapshot

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
PATIENCE_S = 3.0  # Prometheus gives a scrape 10 s, and what the process itself counts isn't to be lost with Redis

Cards = Callable[[], Awaitable[Mapping[str, ModelCard]]]

log = structlog.get_logger("service")


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
        self.rejected = Counter(
            "latentd_rejected", "Requests refused, by the problem's slug.", ["reason"], registry=self.registry
        )
        for error in _kinds(LatentdError):  # they begin at 0, so that a first one is a rise
            self.rejected.labels(error.slug)
        self._accepted = Counter(
            "latentd_jobs_accepted", "Jobs made here.", ["kind", "model", "lane"], registry=self.registry
        )
        self._bodies = Gauge("latentd_bodies_bytes", "Bodies that requests hold in memory.", registry=self.registry)
        self._redis = RedisFamilies()
        self.registry.register(self._redis)

    def refused(self, reason: str) -> None:
        """Count a request that was refused, by the slug of its problem."""
        self.rejected.labels(reason).inc()

    def held(self, size: int) -> None:
        """Note how many bytes of bodies are held now."""
        self._bodies.set(size)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer that has ended."""
        self.requests.labels(route, method, status).inc()
        self.seconds.labels(route).observe(seconds)

    def accepted(self, request: JobRequest) -> None:
        """Count a job that was made: not a dry run, nor a replay."""
        self._accepted.labels(request.kind, request.model, request.priority).inc()

    async def render(self, redis: Redis, cards: Cards) -> bytes:
        """Write the text format, with the queues as they are now; without them while Redis is away."""
        snapshot = await _snapshot(redis, cards)
        self._redis.snapshot = snapshot  # nothing is awaited between here and the text: scrapes don't mix
        return generate_latest(self.registry)


def _kinds(error: type[LatentdError]) -> Iterator[type[LatentdError]]:
    for kind in error.__subclasses__():
        yield kind
        yield from _kinds(kind)


async def _snapshot(redis: Redis, cards: Cards) -> RedisSnapshot | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await read_snapshot(redis, await cards())
    except (RedisError, TimeoutError) as error:
        log.warning("Redis can't be read for metrics", error=type(error).__name__)
        return None
