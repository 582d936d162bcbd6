"""Four times more requests than a worker can take: only 202 and 429, honest Retry-After, bulk advances."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2
from redis import Redis
from rq.utils import as_text

from contract.redis_keys import job_key
from tests.gateway import running
from tests.integration.rig import Rig, tiny_settings, write_models
from tests.starved import allowance
from workers.metrics.step_times import write_cells

SECONDS = 16.0
STEPS = 30
PACE_S = 0.05
ROWS = 2  # of a call; a job is one row and 42 steps on average
RATE = 4 * ROWS / PACE_S / 42  # requests a second
LIMIT = 2


@dataclass(frozen=True)
class Asked:
    """One request and what it was answered."""

    at: float
    lane: str
    status: int
    retry_after: int
    job_id: str


class Paced(threading.Thread):
    """A worker whose rounds take PACE_S each, whatever else the machine does, and which publishes its step times."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(name="paced worker")
        self._rig = rig
        self.done = threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        while not self.done.is_set():
            self._rig.loop.round()
            with self._rig.redis.pipeline() as pipe:
                for model, cells in self._rig.loop.times.take().items():
                    write_cells(pipe, model, cells)
                pipe.execute()
            due = max(due + PACE_S, time.monotonic())
            self.done.wait(due - time.monotonic())


def ask(client: httpx2.Client, number: int) -> Asked:
    """One request; every other is bulk's, and their lengths differ."""
    lane = "bulk" if number % 2 else "interactive"
    body = {"prompt": "x", "steps": STEPS + number % 7 * 4, "guidance_scale": 1.0, "priority": lane}
    at = time.time()
    answer = client.post("/v1/txt2img", json=body)
    retry_after = int(answer.headers.get("retry-after", 0))
    return Asked(at, lane, answer.status_code, retry_after, answer.json().get("id", ""))


def flood(client: httpx2.Client, seconds: float) -> list[Asked]:
    """Requests at RATE."""
    found = []
    began = time.monotonic()
    for number in range(int(seconds * RATE)):
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))
        found.append(ask(client, number))
    return found


def claims(redis: Redis, asked: list[Asked]) -> dict[str, list[float]]:
    """When jobs of each lane were claimed: that is when the lane had room again."""
    found: dict[str, list[float]] = {"interactive": [], "bulk": []}
    for each in asked:
        started = redis.hget(job_key(each.job_id), "started_at") if each.job_id else None
        if started:
            found[each.lane].append(datetime.fromisoformat(as_text(started)).timestamp())
    return {lane: sorted(moments) for lane, moments in found.items()}


def test_four_times_the_capacity(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    settings = tiny_settings(write_models(tmp_path / "models"), redis_url, tmp_path)
    limited = settings.model_copy(update={"queue_limit": LIMIT, "max_rows": ROWS})
    rig = Rig(redis, limited, "paced")
    worker = Paced(rig)
    with running(limited) as client:
        worker.start()
        starved = allowance(os.getpid())
        try:
            asked = flood(client, SECONDS / 2)
            before = bulk_steps(redis, asked)
            asked += flood(client, SECONDS / 2)
            advanced = bulk_steps(redis, asked) > before > 0
            even = max(0.05, 1 - starved() / SECONDS)  # what others left of the time: steps take up to 1 / even as long
        finally:
            worker.done.set()
            worker.join()
            rig.close()
    assert {each.status for each in asked} == {202, 429}
    claimed = claims(redis, asked)
    told = [each for each in asked if each.status == 429 and each.lane == "interactive"]
    waits = [(each, _next(claimed["interactive"], each.at)) for each in told]
    errors = sorted(_off(each.retry_after, wait) for each, wait in waits if wait is not None)
    assert len(errors) >= 8
    assert errors[len(errors) * 9 // 10] <= 0.5 / even, errors
    assert advanced, "bulk starves"
    # Bulk's room is a minute away, behind interactive jobs without end: all its answers must name the same moment.
    moments = [each.at + each.retry_after for each in asked if each.status == 429 and each.lane == "bulk"]
    named = [moment - asked[-1].at for moment in moments[len(moments) // 2 :]]
    assert min(named) >= 0.5 * even * max(named), named


def bulk_steps(redis: Redis, asked: list[Asked]) -> int:
    """Steps that all bulk jobs have made."""
    return sum(
        int(redis.hget(job_key(each.job_id), "step") or 0) for each in asked if each.job_id and each.lane == "bulk"
    )


def _next(moments: list[float], at: float) -> float | None:
    return next((moment - at for moment in moments if moment > at), None)


def _off(told: int, wait: float) -> float:
    """By which share of the wait it was off; the header says whole seconds, of which the last may have just begun."""
    return max(0.0, abs(told - wait) - 1) / wait if told > wait else (wait - told) / wait
