"""Predictions of waits and GPU time, from the step times that workers measured and the work that waits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import TypeAlias

from pydantic import BaseModel, Field

from contract.base import BULK_FIRST_EVERY, Kind
from contract.measurements import JobWork, SizeTimes, StepTimes, predict
from contract.request import JobRequest
from contract.stages import share_done
from core.clock import CLOCK

Size: TypeAlias = tuple[Kind, int, int]  # kind of job, width and height of its answer
SIZES_KNOWN = 4096  # that a client thinks of are without end


class Estimate(BaseModel):
    """Seconds; null until a worker has measured its model."""

    wait_s: float | None = Field(description="For jobs that go before it, and for those that run beside it.")
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
class Running:
    """GPU-seconds of running jobs, shortest first, and the sums of those before each: asked for each job that comes."""

    seconds: tuple[float, ...]
    sums: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Running:
        shortest_first = tuple(sorted(seconds))
        return cls(shortest_first, tuple(accumulate(shortest_first, initial=0.0)))

    def beside(self, own_s: float) -> float:
        """What they delay a job by: calls are shared step by step, so none takes more of them than the job does."""
        shorter = bisect_left(self.seconds, own_s)
        return self.sums[shorter] + (len(self.seconds) - shorter) * own_s


@dataclass(frozen=True, slots=True)
class Backlog:
    """What stands before a new job of one model and lane; seconds are by the device kind that would do the work."""

    fleet: Fleet = field(default_factory=Fleet)
    work_s: Mapping[str, float] = field(default_factory=dict)  # of this lane's jobs that wait
    jobs: int = 0  # of this lane, waiting or running
    queued: int = 0  # of this lane, waiting
    running: Mapping[str, Running] = field(default_factory=dict)  # jobs of this lane and of those that go first
    first_s: Mapping[str, float] = field(default_factory=dict)  # of jobs that wait in lanes that go first
    first_jobs: int = 0

    def wait_s(self, request: JobRequest) -> float | None:
        """What a new job is delayed by."""
        return self._wait_s(self.fleet.gpu_seconds(JobWork.of(request)), self.work_s, self.queued)

    def left_s(self, request: JobRequest, position: int) -> float | None:
        """What a job is still delayed by that waits behind `position` others; `work_s` holds its own work, too."""
        own = self.fleet.gpu_seconds(JobWork.of(request))
        share = 1.0 - max(self.queued - 1 - position, 0) / max(self.queued, 1)
        lane_s = {kind: max(seconds * share - own.get(kind, 0.0), 0.0) for kind, seconds in self.work_s.items()}
        return self._wait_s(own, lane_s, position)

    def _wait_s(self, own: Mapping[str, float], lane_s: Mapping[str, float], ahead: int) -> float | None:
        """… where `ahead` jobs of the lane, which take `lane_s`, are claimed before: of BULK_FIRST_EVERY claims one."""
        share = min((BULK_FIRST_EVERY - 1) * (ahead + 1) / max(self.first_jobs, 1), 1.0)
        work_s = {kind: seconds + share * self.first_s.get(kind, 0.0) for kind, seconds in lane_s.items()}
        return self.fleet.shared({kind: work_s[kind] + self._beside_s(kind, own) for kind in work_s})

    def _beside_s(self, kind: str, own: Mapping[str, float]) -> float:
        return self.running[kind].beside(own.get(kind, 0.0)) if kind in self.running else 0.0

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


def running_seconds(fleet: Fleet, jobs: Mapping[JobWork, int]) -> dict[str, Running]:
    """The same of running jobs, each for itself."""
    each: dict[str, list[float]] = {}
    for work, count in jobs.items():
        for kind, seconds in fleet.gpu_seconds(work).items():
            each.setdefault(kind, []).extend([seconds] * count)
    return {kind: Running.of(seconds) for kind, seconds in each.items()}


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
    return Estimate(wait_s=_rounded(backlog.wait_s(request)), gpu_s=_rounded(gpu_seconds(request, backlog.fleet)))


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def queued_eta(request: JobRequest, backlog: Backlog, position: int) -> float | None:
    """Seconds to the end of a waiting job; `backlog` holds its own work and that of jobs behind it."""
    left_s, idle_s = backlog.left_s(request, position), idle_seconds(request, backlog.fleet)
    return None if left_s is None or idle_s is None else left_s + idle_s


def running_eta(step: int, steps: int, started_at: datetime, request: JobRequest, fleet: Fleet) -> float | None:
    """Seconds to the end of a running job, from its own steps so far, else from the measured times."""
    return idle_seconds(request, fleet) if step == 0 else left_at_pace(step, steps, started_at, request, fleet)


def left_at_pace(step: int, steps: int, started_at: datetime, request: JobRequest, fleet: Fleet) -> float:
    """Seconds to the end of a running job that has made a step, at its pace so far."""
    work, elapsed_s = JobWork.of(request), max((CLOCK.now() - started_at).total_seconds(), 0.0)
    tail_s = fleet.expected(fleet.seconds(work, lambda times: times.tail_s(work)))
    share = share_done(request, step, steps)
    return elapsed_s * (1.0 - share) / share + (tail_s or 0.0)
