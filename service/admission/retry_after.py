"""When a full lane has room again: as soon as a running job ends, a worker claims the next that waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from redis.asyncio import Redis

from contract.base import BULK_FIRST_EVERY, LANES, Lane, queue_name
from contract.job import JobRecord
from contract.measurements import JobWork
from contract.redis_keys import job_key, queue_key, started_key
from contract.request import JobRequest
from core.errors import NewerRelease
from core.single_flight import SingleFlight
from service.admission.backlogs import Backlogs
from service.admission.estimates import Backlog, Fleet, left_at_pace

FIELDS = ("record", "started_at", "step", "steps")
KEPT_S = 0.2  # an answer a second old is often wrong: the room that it tells of is taken


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker holds, and how far it is."""

    request: JobRequest
    started_at: datetime
    step: int
    steps: int

    @property
    def work(self) -> JobWork:
        return JobWork.of(self.request)


class FullLanes:
    """When full lanes have room. A fleet's running jobs take a while to read: not for every refusal of a flood."""

    def __init__(self, redis: Redis, backlogs: Backlogs) -> None:
        self._redis = redis
        self._backlogs = backlogs
        self._known: dict[tuple[str, Lane], SingleFlight[int]] = {}

    async def retry_after(self, model: str, lane: Lane) -> int:
        """What `retry_after` does, at most KEPT_S old."""
        if (model, lane) not in self._known:
            self._known[model, lane] = SingleFlight(partial(self._read, model, lane), KEPT_S)
        return await self._known[model, lane].answer()

    async def _read(self, model: str, lane: Lane) -> int:
        return await retry_after(self._redis, model, lane, await self._backlogs.of(model, lane))


async def retry_after(redis: Redis, model: str, lane: Lane, backlog: Backlog) -> int:
    """Whole seconds, at least 1, until the lane is expected to have room for one job more."""
    running = await _running(redis, model)
    fleet, step_s = backlog.fleet, _step_s(running, backlog.fleet)
    if not running or step_s is None:
        return max(1, math.ceil((fleet.shared(backlog.work_s) or 0.0) / max(backlog.queued, 1)))
    ends = sorted((_left(job, step_s, fleet), job.request.priority) for job in running)
    first = lane == "bulk" and await redis.llen(queue_key(queue_name(model, "interactive"))) > 0
    claim_s = _nth([end_s for end_s, _ in ends], _claims_until_bulk(running) if first else 1)
    if lane == "bulk" and _rows(running, "bulk") >= _rows(running, "interactive"):
        # Workers take a call's rows of bulk, and of both lanes two calls': one that is full is full of bulk.
        claim_s = max(claim_s, next(end_s for end_s, ended in ends if ended == "bulk"))
    return max(1, math.ceil(claim_s))


def _rows(running: Sequence[RunningJob], lane: Lane) -> int:
    return sum(job.work.rows for job in running if job.request.priority == lane)


def _claims_until_bulk(running: Sequence[RunningJob]) -> int:
    """Counted from the newest bulk job that runs: how many claims until bulk's turn, its own included."""
    newest = max((job.started_at for job in running if job.request.priority == "bulk"), default=None)
    since = sum(newest is None or job.started_at > newest for job in running if job.request.priority == "interactive")
    return max(1, BULK_FIRST_EVERY - since)


def _nth(ends: Sequence[float], count: int) -> float:
    """When the `count`-th of the running jobs, and of those that follow them at the same pace, has ended."""
    return ends[count - 1] if count <= len(ends) else ends[-1] * count / len(ends)


def _step_s(together: Sequence[RunningJob], fleet: Fleet) -> float | None:
    """A step of jobs that share workers: of each latent size that they have, one call with all its rows."""
    rows: dict[tuple[int, int], int] = {}
    for job in together:
        size = (job.work.width, job.work.height)
        rows[size] = rows.get(size, 0) + job.work.rows
    asked = {(job.work.width, job.work.height): job.work for job in together}
    calls = [_call_s(asked[size], math.ceil(total / fleet.count), fleet) for size, total in rows.items()]
    found = [seconds for seconds in calls if seconds is not None]
    return sum(found) if found else None


def _call_s(work: JobWork, rows: int, fleet: Fleet) -> float | None:
    return fleet.expected(fleet.seconds(work, lambda times: times.calls.at(rows)))


def _left(job: RunningJob, step_s: float, fleet: Fleet) -> float:
    """Seconds that a running job still needs: at its pace so far, else at that of calls with all running rows."""
    if job.step > 0:
        return left_at_pace(job.step, job.steps, job.started_at, job.request, fleet)
    work = job.work
    return work.steps * step_s + (fleet.expected(fleet.seconds(work, lambda times: times.tail_s(work))) or 0.0)


async def _running(redis: Redis, model: str) -> list[RunningJob]:
    """The jobs of all lanes that workers hold; RQ's registry names them by job and execution."""
    async with redis.pipeline(transaction=False) as pipe:
        for lane in LANES:
            pipe.zrange(started_key(queue_name(model, lane)), 0, -1)
        members = [member for found in await pipe.execute() for member in found]
    async with redis.pipeline(transaction=False) as pipe:
        for member in members:
            pipe.hmget(job_key(member.partition(":")[0]), FIELDS)
        hashes: list[Any] = await pipe.execute()
    return [job for values in hashes if None not in values and (job := _parse(*values)) is not None]


def _parse(record: str, started_at: str, step: str, steps: str) -> RunningJob | None:
    """None for a job that only a newer release can read."""
    try:
        request = JobRecord.read(record).request
    except NewerRelease:
        return None
    return RunningJob(request, datetime.fromisoformat(started_at), int(step), int(steps))
