"""What one Redis serves: its own CPU seconds for a poll, a job and a step event, of the worker's real commands.

python -m tests.perf.redis_limits
"""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis
from rich.console import Console

from service.contract import JobResult, Timings
from service.marks import Shared
from tests.enqueue import enqueue, make_request
from tests.redis_server import RedisServer
from tests.unit.workers.parts import RETENTION, TINY, make_claims, make_worker
from workers.held import Held
from workers.progress import Progress
from workers.publish import Publisher, Succeeded

RESULT = Succeeded(JobResult(execution="", images=(), timings=Timings()))
SHARED = Shared(rows=2, call_rows=16, jobs=8, call_s=0.05, encode_s=0.01, denoise_s=1.0, gpu_s=0.1)
BATCH = 8  # jobs that share a round, as in a full call


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


def main() -> None:
    console = Console(highlight=False)
    with RedisServer(aof=True) as server:
        redis = server.connect()
        worker = make_worker(redis)
        claims, publisher, progress = make_claims(worker), Publisher(worker, redis, RETENTION), Progress(redis)

        def job(number: int) -> None:
            enqueue(redis, f"job-{number}", make_request())
            held = claims.next(TINY)
            assert held is not None
            publisher.end(held, RESULT)

        def hold(number: int) -> Held:
            enqueue(redis, f"held-{number}", make_request(steps=1000))
            held = claims.next(TINY)
            assert held is not None
            return held

        console.print(f"polls  {per_second(redis, lambda _: claims.next(TINY), 5000):,.0f}/s")
        console.print(f"jobs   {per_second(redis, job, 1000):,.0f}/s")
        helds = {held.job_id: held for held in map(hold, range(BATCH))}

        def round_(number: int) -> None:
            for held in helds.values():
                progress.step(held, number + 1, None, SHARED)
            progress.flush(helds)

        console.print(f"events {per_second(redis, round_, 1000, BATCH):,.0f}/s, {BATCH} a round")


if __name__ == "__main__":
    main()
