"""Whether a fleet keeps up with its load, by what it did in a simulation.

A queue near its capacity grows too slowly for latencies to tell within a few thousand jobs. What tells is the work that
was done while jobs waited: workers were never idle then, so it is their capacity, without the noise of the arrivals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from workers.planner.worker import SimJob

GROWTH = 1.5  # latency of the last third over that of the one before, beyond which a queue counts as growing
LONG = 0.5  # of the jobs: how many must have come while others waited, for what was done meanwhile to be a capacity
SLACK = 0.02  # of the work: jobs that are half done at either end of that time

Work = Callable[[SimJob], float]


def grows(jobs: Sequence[SimJob]) -> bool:
    """Tell whether results take ever longer; `jobs` are in order of their arrivals."""
    third = len(jobs) // 3
    if third == 0:
        return False
    before, last = (fmean(job.ended - job.arrived for job in part) for part in (jobs[third : 2 * third], jobs[-third:]))
    return last > GROWTH * before


def falls_behind(jobs: Sequence[SimJob], work: Work, offered: float, turn_s: float) -> bool:
    """Tell whether jobs waited through most of the arrivals, and less work was done meanwhile than arrives.

    `work` is of one job and `offered` arrives per second; `turn_s` is the longest that a worker with room doesn't look.
    """
    since = waiting_since(jobs, turn_s)
    if since > (1.0 - LONG) * len(jobs):
        return False
    start, end = jobs[since].arrived, jobs[-1].arrived
    done = sum(work(job) * _share(job, start, end) for job in jobs)
    return done < (1.0 - SLACK) * offered * (end - start)


def waiting_since(jobs: Sequence[SimJob], turn_s: float) -> int:
    """Return the index of the last job at whose arrival no earlier one waited any longer than `turn_s`."""
    since, claimed = 0, -math.inf
    for index, job in enumerate(jobs):
        if claimed <= job.arrived + turn_s:
            since = index
        claimed = max(claimed, job.started)
    return since


def _share(job: SimJob, start: float, end: float) -> float:
    """Return how much of a job's time with its worker lies between `start` and `end`."""
    inside = min(job.ended, end) - max(job.started, start)
    return max(0.0, inside) / max(job.ended - job.started, 1e-9)
