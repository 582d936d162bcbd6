"""Predictions of waits and GPU time, from the step times that workers measured and the work that waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeAlias

from pydantic import BaseModel, Field

from contract.base import Kind
from contract.measurements import JobWork, SizeTimes, StepTimes, predict
from contract.request import JobRequest
from contract.stages import share_done
from core.clock import CLOCK

Size: TypeAlias = tuple[Kind, int, int]  # kind of job, width and height of its answer
SIZES_KNOWN = 4096  # that a client thinks of are without end


class Estimate(BaseModel):
    """Seconds; null until a worker has measured its model."""

    wait_s: float | None = Field(description="Until the first step.")
    gpu_s: float | None = Field(description="Of the accelerator, for this job alone.")


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who could serve a model and how fast: measured tables and live workers, by device kind.

    A live worker whose kind hasn't been measured counts as one of the fastest kind, and so does nobody at all.
    """

    tables: Mapping[str, StepTimes] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    known: dict[Size, dict[str, SizeTimes]] = field(default_factory=dict, compare=False)  # for as long as the tables

    @property
    def count(self) -> int:
        return max(sum(self.workers.values()), 1)

    def times(self, work: JobWork) -> dict[str, SizeTimes]:
        """Seconds of such jobs by device kind, of those that measured any call."""
        size = (work.kind, work.width, work.height)
        if size not in self.known:
            if len(self.known) >= SIZES_KNOWN:
                self.known.clear()
            found = {kind: predict(table, *size) for kind, table in self.tables.items()}
            self.known[size] = {kind: times for kind, times in found.items() if times is not None}
        return self.known[size]

    def seconds(self, work: JobWork, of: Callable[[SizeTimes], float]) -> dict[str, float]:
        return {kind: of(times) for kind, times in self.times(work).items()}

    def gpu_seconds(self, work: JobWork) -> dict[str, float]:
        return self.seconds(work, lambda times: times.gpu_s(work))

    def idle_seconds(self, work: JobWork) -> dict[str, float]:
        """From claim to result where nothing else runs."""
        return self.seconds(work, lambda times: times.alone_s(work))

    def expected(self, seconds: Mapping[str, float]) -> float | None:
        """On the worker that serves: any of the live ones alike."""
        if not seconds:
            return None
        shares = self._shares(seconds)
        return sum(count * each for each, count in shares) / sum(count for _, count in shares)

    def shared(self, seconds: Mapping[str, float]) -> float | None:
        """Where all live workers share this much work, each at its speed."""
        if not seconds:
            return None
        shares = self._shares(seconds)
        return 0.0 if not min(seconds.values()) else 1 / sum(count / each for each, count in shares)

    def _shares(self, seconds: Mapping[str, float]) -> list[tuple[float, int]]:
        fastest = min(seconds.values())
        return [(seconds.get(kind, fastest), count) for kind, count in self.workers.items()] or [(fastest, 1)]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What stands before a new job of one model and lane; `work_s` is that of all jobs that go first, running ones
    included, by the device kind that would do it."""

    fleet: Fleet = field(default_factory=Fleet)
    work_s: Mapping[str, float] = field(default_factory=dict)
    jobs: int = 0  # of this lane, waiting or running
    queued: int = 0  # of this lane, waiting

    @property
    def wait_s(self) -> float | None:
        return self.fleet.shared(self.work_s)

    def behind(self, request: JobRequest) -> Backlog:
        """With this job behind all others."""
        own = self.fleet.gpu_seconds(JobWork.of(request))
        work_s = {kind: seconds + own.get(kind, 0.0) for kind, seconds in self.work_s.items()}
        return replace(self, work_s=work_s, jobs=self.jobs + 1, queued=self.queued + 1)


def work_seconds(fleet: Fleet, jobs: Mapping[JobWork, int]) -> dict[str, float]:
    """GPU-seconds of many jobs, by device kind of those that measured any call."""
    total = {kind: 0.0 for kind, table in fleet.tables.items() if any(times.calls for times in table.shapes)}
    for work, count in jobs.items():
        for kind, seconds in fleet.gpu_seconds(work).items():
            total[kind] += count * seconds
    return total


def gpu_seconds(request: JobRequest, fleet: Fleet) -> float | None:
    """Of the accelerator that serves, storing left out; None until a worker has measured the model."""
    return fleet.expected(fleet.gpu_seconds(JobWork.of(request)))


def idle_seconds(request: JobRequest, fleet: Fleet) -> float | None:
    """The job's length where nothing else runs, on the workers that serve."""
    return fleet.expected(fleet.idle_seconds(JobWork.of(request)))


def least_seconds(request: JobRequest, fleet: Fleet) -> float | None:
    """The same on the fastest kind that was ever measured: a shorter deadline can't be met."""
    return min(fleet.idle_seconds(JobWork.of(request)).values(), default=None)


def estimate(request: JobRequest, backlog: Backlog) -> Estimate:
    return Estimate(wait_s=_rounded(backlog.wait_s), gpu_s=_rounded(gpu_seconds(request, backlog.fleet)))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def queued_eta(request: JobRequest, backlog: Backlog, position: int) -> float | None:
    """Seconds to the end of a waiting job; `backlog` holds its own work and that of jobs behind it."""
    fleet, all_s, work = backlog.fleet, backlog.wait_s, JobWork.of(request)
    own_s, idle_s = fleet.shared(fleet.gpu_seconds(work)), fleet.expected(fleet.idle_seconds(work))
    if all_s is None or own_s is None or idle_s is None:
        return None
    behind_s = max(backlog.queued - 1 - position, 0) * all_s / max(backlog.jobs, 1)
    return max(all_s - behind_s, own_s) - own_s + idle_s


def running_eta(step: int, steps: int, started_at: datetime, request: JobRequest, fleet: Fleet) -> float | None:
    """Seconds to the end of a running job, from its own steps so far, else from the measured times."""
    return idle_seconds(request, fleet) if step == 0 else left_at_pace(step, steps, started_at, request, fleet)


def left_at_pace(step: int, steps: int, started_at: datetime, request: JobRequest, fleet: Fleet) -> float:
    """Seconds to the end of a running job that has made a step, at its pace so far."""
    work, elapsed_s = JobWork.of(request), max((CLOCK.now() - started_at).total_seconds(), 0.0)
    tail_s = fleet.expected(fleet.seconds(work, lambda times: times.tail_s(work)))
    share = share_done(request, step, steps)
    return elapsed_s * (1.0 - share) / share + (tail_s or 0.0)
