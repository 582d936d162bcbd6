"""What tests of sweeps share."""

from __future__ import annotations

import time

from redis import Redis

from core.storage import (
    Store,
    image_path,
    upload_path,
)
from jobs.end import Publisher, Retention, Succeeded
from jobs.run import JobRun
from tests.enqueue import enqueue, make_request
from tests.unit.workers.parts import claim, make_worker
from workers.objects.sweep import Sweeper

KEEP_S = 100
RETENTION = Retention(KEEP_S, 1000)


def paths(store: Store) -> list[str]:
    """Of all objects but those of the pair."""
    return sorted(entry["path"] for page in store.list() for entry in page if "/" in entry["path"])


def sweeper(redis: Redis, store: Store, ahead_s: float = 0.0) -> Sweeper:
    """One whose clocks are `ahead_s` later than now."""
    later = lambda: time.time() + ahead_s  # noqa: E731
    return Sweeper(redis, store, RETENTION, later, later)


def end(redis: Redis, store: Store, job_id: str) -> JobRun:
    """A job that succeeded, with an upload and a picture."""
    worker = make_worker(redis, f"worker-{job_id}")
    enqueue(redis, job_id, make_request())
    store.put(upload_path(job_id, "image", "0" * 64), b"1")
    run = claim(worker)
    store.put(image_path(job_id, run.execution.id, 0, "png"), b"2")
    Publisher(worker, redis, RETENTION).end(run, Succeeded(run.result()))
    return run
