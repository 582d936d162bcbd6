"""How soon an idle worker has a job that comes: half of them within 50 ms, with both cores to itself."""

from __future__ import annotations

import time
from pathlib import Path

from redis import Redis

from tests.enqueue import enqueue, job_state, make_request
from tests.integration.processes import WorkerProcess
from tests.integration.rig import tiny_settings, write_models
from tests.waits import wait_for


def status(redis: Redis, job_id: str) -> str:
    return job_state(redis, job_id)["status"]


def pick_up_s(redis: Redis, job_id: str) -> float:
    """Enqueue a job at an idle worker; seconds until it isn't queued any more."""
    time.sleep(0.1)  # it rests again
    enqueue(redis, job_id, make_request(steps=1))
    waited = wait_for(lambda: status(redis, job_id) != "queued", 5, "pick-up")
    wait_for(lambda: status(redis, job_id) == "succeeded", 10, "result")
    return waited


def test_an_idle_worker_picks_up_within_50_ms(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    worker = WorkerProcess(tiny_settings(write_models(tmp_path / "models"), redis_url, tmp_path), tmp_path)
    try:
        worker.ready()
        assert sorted(pick_up_s(redis, f"j{number}") for number in range(7))[3] <= 0.05
    finally:
        worker.kill()
