"""Predictions of waits and GPU time from the step rate that workers measure and the rows that wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import BaseModel, Field
from redis.asyncio import Redis

from contract.lanes import LANES, Lane, queue_name
from contract.measurements import Rates
from contract.redis_keys import RATES_KEY, queue_key, serving_key, work_key
from contract.request import JobRequest
from service.single_flight import SingleFlight

# Redis adds a job in about 0.2 µs: of its time, backlogs take no more than 1 % for each gateway.
EACH_S = 20e-6

# KEYS: rates, the lane's queue, live workers, work of the lanes that go first, the asked one last. ARGV: model, now.
_BACKLOG = """
local rows, jobs = 0, 0
for i = 4, #KEYS do
  local work = redis.call('HVALS', KEYS[i])
  jobs = #work
  for _, each in ipairs(work) do rows = rows + each end
end
local workers = redis.call('ZCOUNT', KEYS[3], ARGV[2], '+inf')
return {redis.call('HGET', KEYS[1], ARGV[1]), redis.call('LLEN', KEYS[2]), workers, rows, jobs}
"""


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


class Backlogs:
    """Backlogs of all lanes. Adding up a long one isn't free: it is kept for EACH_S for each of its jobs."""

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(_BACKLOG)
        self._kept: dict[tuple[str, Lane], tuple[float, Backlog]] = {}  # until when
        self._flights: dict[tuple[str, Lane], SingleFlight[Backlog]] = {}

    async def of(self, model: str, lane: Lane) -> Backlog:
        """What stands before a new job, in one round trip."""
        until, kept = self._kept.get((model, lane), (0.0, None))
        if kept is None or time.monotonic() >= until:
            if (model, lane) not in self._flights:
                self._flights[model, lane] = SingleFlight(partial(self._read, model, lane))
            kept = await self._flights[model, lane].answer()
        return kept

    async def _read(self, model: str, lane: Lane) -> Backlog:
        lanes: Sequence[Lane] = LANES if lane == "bulk" else ("interactive",)
        keys = [RATES_KEY, queue_key(queue_name(model, lane)), serving_key(model)]
        keys += [work_key(model, each) for each in lanes]
        answer: Any = await self._script(keys, [model, time.time()])
        rates, queued, workers, rows, jobs = answer
        parsed = Rates.read(rates) if rates else None
        backlog = Backlog(rates=parsed, rows=rows, jobs=jobs, queued=queued, workers=max(workers, 1))
        self._kept[model, lane] = (time.monotonic() + EACH_S * jobs, backlog)
        return backlog


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
