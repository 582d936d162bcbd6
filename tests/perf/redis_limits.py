"""What one Redis serves: its own CPU seconds for a look, a job, a step event and a worker, of the real commands.

python -m tests.perf.redis_limits
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import structlog
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from rich.console import Console
from rich.table import Table

from contract.events import Shared
from contract.job import JobRecord, JobResult, Timings
from core.settings import Settings
from jobs.create import create
from jobs.end import Publisher, Succeeded
from jobs.run import JobRun
from tests.enqueue import make_request
from tests.redis_server import RedisServer
from tests.unit.workers.parts import RETENTION, TINY, make_claims, make_worker
from workers.heartbeat import BEAT_S, SWEEP_S, Heartbeat
from workers.queue.claims import Claims
from workers.queue.events import EventWriter
from workers.queue.reaper import Reaper

RESULT = Succeeded(JobResult(execution="", images=(), timings=Timings()))
SHARED = Shared(rows=2, call_rows=16, jobs=8, call_s=0.05, encode_s=0.01, denoise_s=1.0, gpu_s=0.1)
CALLS = 20  # of a GPU, a second
BATCH = 8  # jobs that share a round, as in a full call
WORKERS, SECONDS = 60, 20.0  # of the small fleet whose hearts are measured


def used_s(redis: Redis) -> float:
    """CPU seconds of the server so far."""
    cpu = redis.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def per_second(redis: Redis, work: Callable[[int], object], count: int, each: int = 1) -> float:
    """How many of what `work` does `each` times the server could do in a second of its CPU."""
    began = used_s(redis)
    for number in range(count):
        work(number)
    return count * each / (used_s(redis) - began)


class Bench:
    """One server, and a worker's parts on it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.redis = server.connect()
        self.worker = make_worker(self.redis)
        self.claims = make_claims(self.worker)
        self._publisher = Publisher(self.worker, self.redis, RETENTION)
        self._now = 0.0
        self._progress = EventWriter(self.redis, lambda: self._now)
        self._loop = asyncio.new_event_loop()
        self._gateway = AsyncRedis.from_url(server.url, decode_responses=True)
        self._settings = Settings(queue_limit=10**9)

    def close(self) -> None:
        self._loop.run_until_complete(self._gateway.aclose())
        self._loop.close()

    def enqueue(self, name: str) -> None:
        """As the gateway does."""
        record = JobRecord(id=name, created_at=datetime.now(UTC), request=make_request(steps=1000))
        self._loop.run_until_complete(create(self._gateway, self._settings, record, None, None))

    def job(self, number: int) -> None:
        """Enqueued, an idle worker woken, claimed, and ended."""
        self.enqueue(f"job-{number}")
        self.claims.rest()
        self._publisher.end(self.hold(self.claims), RESULT)

    def jobs(self, number: int) -> None:
        """A full call's jobs: enqueued and claimed one by one, as they come, and ended in one round."""
        runs = self.held(self.claims, f"round-{number}")
        self._publisher.end_all([(run, RESULT) for run in runs])

    @staticmethod
    def hold(claims: Claims) -> JobRun:
        held = claims.next(TINY)
        assert held is not None
        return held

    def held(self, claims: Claims, name: str) -> list[JobRun]:
        """A full call's jobs."""
        for number in range(BATCH):
            self.enqueue(f"{name}-{number}")
        return [self.hold(claims) for _ in range(BATCH)]

    def rounds(self, count: int) -> float:
        """Steps told a second, of rounds that BATCH jobs share, CALLS a second."""
        helds = {held.job_id: held for held in self.held(self.claims, "rounds")}

        def round_(number: int) -> None:
            self._now += 1 / CALLS
            for held in helds.values():
                self._progress.step(held, number + 1, {}, SHARED)
            self._progress.flush(helds)

        return per_second(self.redis, round_, count, BATCH)

    def workers(self) -> float:
        """How many workers, each holding a full call's jobs, keep the server busy by living alone."""
        with ThreadPoolExecutor(WORKERS) as pool:
            live = list(map(self._life, range(WORKERS)))
            began, until = used_s(self.redis), time.monotonic() + SECONDS
            for done in [pool.submit(one, until) for one in live]:
                done.result()
        return WORKERS * SECONDS / (used_s(self.redis) - began)

    def _life(self, number: int) -> Callable[[float], None]:
        """A worker that holds jobs, looks for more twice a second, beats and sweeps."""
        redis = self.server.connect()
        worker = make_worker(redis, f"worker-{number}")
        claims = make_claims(worker)
        held = self.held(claims, worker.name)
        reaper = Reaper(redis, claims.queues.values(), RETENTION, worker.name)
        heart = Heartbeat(worker, redis, reaper, lambda: ["tiny"], "cpu", lambda: held, dict)

        def live(until: float) -> None:
            beat_at = sweep_at = time.monotonic()
            while (now := time.monotonic()) < until:
                claims.rest()
                claims.next(TINY)
                if now >= beat_at:
                    heart.beat()
                    beat_at += BEAT_S
                if now >= sweep_at:
                    reaper.turn()
                    sweep_at += SWEEP_S

        return live


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with RedisServer(aof=True) as server:
        bench = Bench(server)
        table = Table("of one Redis", "a second", title=f"Redis {bench.redis.info('server')['redis_version']}")
        table.add_row(
            "looks of a worker for jobs", f"{per_second(bench.redis, lambda _: bench.claims.next(TINY), 5000):,.0f}"
        )
        table.add_row("jobs: enqueued, woken for, claimed, ended", f"{per_second(bench.redis, bench.job, 1000):,.0f}")
        ended = per_second(bench.redis, bench.jobs, 125, BATCH)
        table.add_row(f"jobs: enqueued, claimed, {BATCH} ended a round", f"{ended:,.0f}")
        table.add_row(f"steps told, {BATCH} a round, {CALLS} rounds a second", f"{bench.rounds(1000):,.0f}")
        table.add_row(f"workers kept alive, {BATCH} jobs each", f"{bench.workers():,.0f}")
        bench.close()
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
