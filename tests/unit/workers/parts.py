"""What the tests of the worker's parts share: a registered RQ worker and claims in its name."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from contract.common import Numerics
from contract.events import Shared
from jobs.claim import Holdings
from jobs.end import Retention
from jobs.run import JobRun
from jobs.worker import BatchWorker
from workers.claim_policy import ModelLane
from workers.queue.claims import Claims

TINY: tuple[ModelLane, ...] = (("tiny", "interactive"), ("tiny", "bulk"))
RETENTION = Retention(60, 600)
NUMERICS = Numerics(
    device="cpu", dtype="float32", threads=1, rows=4, memory_format="contiguous", compiled=False, torch="2"
)
SHARED = Shared(rows=1, call_rows=4, jobs=3, call_s=0.2, encode_s=0.1, denoise_s=1.0, gpu_s=0.25)


def make_worker(redis: Redis, name: str = "worker-a") -> BatchWorker:
    """A worker known to RQ that serves nothing by itself."""
    worker = BatchWorker(name, ["tiny"], redis)
    worker.arrive()
    return worker


def make_claims(
    worker: BatchWorker,
    models: Sequence[str] = ("tiny",),
    numerics: Numerics = NUMERICS,
    holdings: Holdings | None = None,
) -> Claims:
    """Claims of `worker`."""
    return Claims(worker, worker.connection, models, dict.fromkeys(models, numerics), holdings=holdings)


def claim(worker: BatchWorker) -> JobRun:
    """The next job, which must be there."""
    run = make_claims(worker).next(TINY)
    assert run is not None
    return run
