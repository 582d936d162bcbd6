"""Predictions of waits and GPU time from the step rate that workers measure and the rows that wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, Field
from redis.asyncio import Redis

from service.contract import LANES, RATES_KEY, JobRequest, Lane, Rates, queue_name, work_key
from service.queue import queue_key


class Estimate(BaseModel):
    """Seconds; null until a worker has measured its rate."""

    wait_s: float | None = Field(description="Until the first step.")
    gpu_s: float | None = Field(description="Of the accelerator, for this job alone.")


class Backlog(BaseModel):
    """What stands before a new job of one model and lane."""

    rates: Rates | None
    rows: int = 0  # network evaluations of all jobs that go first, running ones included
    jobs: int = 0  # of this lane, waiting or running
    queued: int = 0  # of this lane, waiting
    workers: int = 1

    @property
    def wait_s(self) -> float | None:
        return None if self.rates is None else self.rows * self.rates.row_s / self.workers


async def read_backlog(redis: Redis, model: str, lane: Lane, workers: int) -> Backlog:
    """Read the rates and the work of the lanes that go first, in one round trip."""
    lanes: Sequence[Lane] = LANES if lane == "bulk" else ("interactive",)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hget(RATES_KEY, model)
        pipe.llen(queue_key(queue_name(model, lane)))
        for each in lanes:
            pipe.hvals(work_key(model, each))
        rates, queued, *works = await pipe.execute()
    rows = sum(int(value) for work in works for value in work)
    parsed = Rates.model_validate_json(rates) if rates else None
    return Backlog(rates=parsed, rows=rows, jobs=len(works[-1]), queued=queued, workers=max(workers, 1))


def gpu_seconds(request: JobRequest, rates: Rates) -> float:
    return request.rows * rates.row_s + request.num_images * rates.image_s


def idle_seconds(request: JobRequest, rates: Rates) -> float:
    """The job's length where nothing else runs: a call costs its rows, but never less than a small call does."""
    calls = request.run_steps // request.num_images
    call_s = max(rates.step_s, request.rows / calls * rates.row_s)
    return calls * call_s + request.num_images * rates.image_s


def predict(request: JobRequest, backlog: Backlog) -> Estimate:
    gpu_s = None if backlog.rates is None else round(gpu_seconds(request, backlog.rates), 3)
    wait_s = None if backlog.wait_s is None else round(backlog.wait_s, 3)
    return Estimate(wait_s=wait_s, gpu_s=gpu_s)


def queued_eta(request: JobRequest, backlog: Backlog, position: int) -> float | None:
    """Seconds to the end of a waiting job; `backlog` holds its own rows and those of jobs behind it."""
    if backlog.rates is None:
        return None
    behind = max(backlog.queued - 1 - position, 0) * backlog.rows / max(backlog.jobs, 1)
    ahead = max(backlog.rows - behind, request.rows) - request.rows
    return ahead * backlog.rates.row_s / backlog.workers + idle_seconds(request, backlog.rates)


def running_eta(step: int, steps: int, started_at: datetime, request: JobRequest, rates: Rates | None) -> float | None:
    """Seconds to the end of a running job, from its own steps so far, else from the rates."""
    if step > 0:
        elapsed = (datetime.now(UTC) - started_at).total_seconds()
        tail = rates.image_s if rates else 0.0
        return max(elapsed, 0.0) * (steps - step) / step + tail
    return None if rates is None else idle_seconds(request, rates)
