"""How many workers a load needs, what its clients wait, and which policy serves them best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from core.errors import ConfigurationError
from workers.engine.scheduler import Policy
from workers.planner.costs import Costs, JobCost
from workers.planner.mix import JobClass, arrivals
from workers.planner.simulation import RedisLimits, SimRun, simulate
from workers.planner.steady import falls_behind, grows
from workers.planner.worker import SimJob

MOST_WORKERS = 1000
MOST_SIMULATED = 24  # workers; of a larger fleet a part is simulated, with its part of the load and of Redis
WARM = 0.2  # of the jobs, the first, count for nothing: queues start empty


@dataclass(frozen=True, slots=True)
class Load:
    """The question: `rate` jobs per second of a mix, drawn `count` times from `seed`."""

    mix: tuple[JobClass, ...]
    rate: float
    count: int = 3000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Waits:
    """Of some jobs, in seconds: until the claim (the service's `queue_s`), and until the result."""

    jobs: int
    wait_mean: float
    wait_p50: float
    wait_p99: float
    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What `workers` workers do with a load. `simulated` of them were; `steady`: no queue grows.

    `assumed` are sentences on what of its policy wasn't measured.
    """

    workers: int
    simulated: int
    policy: Policy
    total: Waits
    groups: dict[str, Waits]
    busy_share: float
    rows_per_call: float
    redis_load: float
    steady: bool
    assumed: tuple[str, ...] = ()

    def meets(self, p99_s: float) -> bool:
        return self.steady and self.total.p99 <= p99_s


@dataclass(slots=True)
class Planner:
    """Answers for one load; runs are remembered."""

    load: Load
    costs: Costs
    limits: RedisLimits = field(default_factory=RedisLimits)
    spent_s: float = 0.0
    jobs: int = 0  # simulated so far
    _known: dict[tuple[int, Policy], Outlook] = field(default_factory=dict)

    def outlook(self, workers: int, policy: Policy) -> Outlook:
        """Simulate a fleet."""
        if (workers, policy) not in self._known:
            began = time.perf_counter()
            self._known[workers, policy] = self._simulate(workers, policy)
            self.spent_s += time.perf_counter() - began
        return self._known[workers, policy]

    def _simulate(self, workers: int, policy: Policy) -> Outlook:
        simulated = min(workers, MOST_SIMULATED)
        share = simulated / workers
        stream = arrivals(self.load.mix, self.load.rate * share, self.load.count, self.load.seed)
        run = simulate(self.costs, stream, simulated, policy, limits=self.limits, share=share)
        self.jobs += len(stream)
        steady = workers >= self.fewest(policy) and not self._falls_behind(run, share, policy)
        assumed = self.costs.extrapolated(policy.max_rows, policy.strict_rows)
        return replace(outlook(run, workers, policy), steady=steady, assumed=assumed)

    def _falls_behind(self, run: SimRun, share: float, policy: Policy) -> bool:
        costs, rows = self.costs, policy.max_rows
        offered = self.load.rate * share * self._mean(lambda job: costs.work_s(job, rows))
        turn_s = costs.turn_s(rows)
        return grows(run.jobs) or falls_behind(run.jobs, lambda job: costs.work_s(job.cost, rows), offered, turn_s)

    def _mean(self, work: Callable[[JobCost], float]) -> float:
        """Return the mean over the mix."""
        weights = [one.weight for one in self.load.mix]
        pairs = zip(weights, self.costs.jobs, strict=True)
        return sum(weight * work(job) for weight, job in pairs) / sum(weights)

    def least(self, p99_s: float, policy: Policy) -> Outlook:
        """Find the smallest fleet whose 99th percentile from arrival to result is within `p99_s`.

        Raises:
            ConfigurationError: none up to 1,000 workers is, or more than one job in a hundred takes longer alone.
        """
        self._check(p99_s)
        low = self.fewest(policy)
        high = self._first_enough(low, p99_s, policy)
        while high - low > high // 100:  # to one in a hundred: the draw of the jobs decides no closer
            middle = (low + high) // 2
            if self.outlook(middle, policy).meets(p99_s):
                high = middle
            else:
                low = middle + 1
        return self.outlook(high, policy)

    def _check(self, p99_s: float) -> None:
        """See that jobs on idle GPUs keep the promise."""
        alone = [self.costs.alone_s(job) for job in self.costs.jobs]
        late = [one.weight for one, seconds in zip(self.load.mix, alone, strict=True) if seconds > p99_s]
        if sum(late) > 0.01 * sum(one.weight for one in self.load.mix):
            slowest = max(range(len(alone)), key=alone.__getitem__)
            detail = f"--p99 {p99_s:g}: a job alone takes {alone[slowest]:.2f} s: {self.costs.jobs[slowest].name}"
            raise ConfigurationError(detail, field="p99", value=p99_s, bound=alone[slowest])

    def fewest(self, policy: Policy) -> int:
        """Return the workers that a load keeps busy at best batching: fewer can't serve it, however they wait."""
        work = self._mean(lambda job: self.costs.least_work_s(job, policy.max_rows, policy.strict_rows))
        return max(1, math.ceil(self.load.rate * work))

    def _first_enough(self, low: int, p99_s: float, policy: Policy) -> int:
        """Find the first of low · 1, 1.25, 1.56, … that is enough."""
        workers = low
        while workers <= MOST_WORKERS:
            if self.outlook(workers, policy).meets(p99_s):
                return workers
            workers = max(workers + 1, math.ceil(1.25 * workers))
            workers = MOST_WORKERS if workers > MOST_WORKERS > low and self._untried(policy) else workers
        detail = f"--p99 {p99_s:g}: {MOST_WORKERS} workers on one Redis don't reach it{self._why(policy)}"
        raise ConfigurationError(detail, field="p99", value=p99_s)

    def _untried(self, policy: Policy) -> bool:
        return (MOST_WORKERS, policy) not in self._known

    def _why(self, policy: Policy) -> str:
        best = self._known.get((MOST_WORKERS, policy))
        if best is None:
            return f": this load keeps {self.fewest(policy)} busy"
        return f": p99 is {best.total.p99:.2f} s, Redis {best.redis_load:.0%} busy"

    def alternatives(self, policy: Policy) -> Iterator[tuple[str, Policy, bool | None]]:
        """Other policies that may matter for this load: a name, the policy, and whether all jobs are strict."""
        half = max(policy.max_rows // 2, max(job.rows for job in self.costs.jobs))  # an image's rows stay together
        for rows in (*([half] if half < policy.max_rows else []), 2 * policy.max_rows):
            yield f"max_rows {rows}", replace(policy, max_rows=rows), None
        if any(job.strict for job in self.costs.jobs):
            yield "no job strict", policy, False
        yield "every job strict", policy, True
        if len({job.lane for job in self.costs.jobs}) == 2:
            yield "ageing 0 s", replace(policy, ageing_s=0.0), None
            yield "ageing 10 s", replace(policy, ageing_s=10.0), None

    def compare(self, workers: int, policy: Policy) -> dict[str, Outlook]:
        """Simulate the same fleet and jobs under other policies."""
        found = {}
        for name, other, strict in self.alternatives(policy):
            planner = self if strict is None else self._with_strict(strict)
            found[name] = planner.outlook(workers, other)
            if planner is not self:
                self.jobs, self.spent_s = self.jobs + planner.jobs, self.spent_s + planner.spent_s
        return found

    def _with_strict(self, strict: bool) -> Planner:
        jobs = tuple(replace(job, strict=strict) for job in self.costs.jobs)
        return Planner(self.load, replace(self.costs, jobs=jobs), self.limits)


def enough_jobs(mix: Sequence[JobClass]) -> int:
    """Choose how many jobs a run gets: 3,000, so that 24 that count are beyond the 99th percentile, or fewer where
    jobs have many steps; a run then takes a second or two."""
    steps = sum(one.weight * one.request.run_steps for one in mix) / sum(one.weight for one in mix)
    return max(1000, min(3000, int(150_000 / steps)))


def outlook(run: SimRun, workers: int, policy: Policy) -> Outlook:
    """Sum up a run; the first fifth of its jobs is left out."""
    jobs = run.jobs[int(WARM * len(run.jobs)) :]
    return Outlook(
        workers=workers,
        simulated=run.workers,
        policy=policy,
        total=waits(jobs),
        groups={**_groups(jobs, lambda job: job.cost.name), **_groups(jobs, lambda job: f"all {job.cost.lane}")},
        busy_share=run.busy_share,
        rows_per_call=run.rows_per_call,
        redis_load=run.redis_load,
        steady=not grows(run.jobs),
    )


def waits(jobs: Sequence[SimJob]) -> Waits:
    """Return means and percentiles of jobs that have ended."""
    wait = sorted(job.started - job.arrived for job in jobs)
    whole = sorted(job.ended - job.arrived for job in jobs)
    wait_p50, wait_p99, p50, p99 = (percentile(x, q) for x in (wait, whole) for q in (0.5, 0.99))
    return Waits(len(jobs), fmean(wait), wait_p50, wait_p99, fmean(whole), p50, p99)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Interpolate linearly between the two nearest ranks of an ascending sequence."""
    rank = share * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def _groups(jobs: Sequence[SimJob], name: Callable[[SimJob], str]) -> dict[str, Waits]:
    found: dict[str, list[SimJob]] = {}
    for job in jobs:
        found.setdefault(name(job), []).append(job)
    return {key: waits(found[key]) for key in sorted(found)}
