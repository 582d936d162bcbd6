"""The soak's log as a page of the documentation."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

from tests.soak.findings import SAVED_WITHIN_S, Findings, spread
from tests.soak.plan import Plan


def page(plan: Plan, found: Findings, told: Sequence[str], complaints: Sequence[str]) -> str:
    """Markdown: the figures, then every kill as it happened."""
    verdict = "Everything held." if not complaints else "**Did not hold:** " + "; ".join(complaints)
    return "\n".join([_head(plan, found), verdict, "", *_table(found), "", "## Log", "", "```", *told, "```", ""])


def _head(plan: Plan, found: Findings) -> str:
    load = os.getloadavg()[2]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, load over the last 15 min {load:.1f}"
    return f"""# Soak: workers and Redis killed while jobs run

Made by `make soak` (tests/soak): {found.jobs} jobs of a tiny model through the gateway, {plan.workers} workers, a
`kill -9` of one of them every {plan.every_s[0]:.0f}–{plan.every_s[1]:.0f} s, {plan.redis_kills} of Redis in between.
On {machine}; {found.seconds:.0f} s. Spreads are least / median / 95th percentile / most.
"""


def _table(found: Findings) -> list[str]:
    never = [one for one in found.resumptions if one.seconds is None]
    others = f"{found.twins} twins and {found.measured} to measure with them"
    rows = {
        "jobs, and how they ended": f"{found.jobs}: {dict(found.statuses)}",
        "jobs with exactly one result, one terminal event and its object": found.results,
        f"finished and failed jobs as RQ counts them, {others}": f"{found.registered[0]}, {found.registered[1]}",
        "objects of executions that died between storing and publishing": found.extra_objects,
        "kills of workers": found.kills,
        "of these, of a worker that was running jobs": found.kills_of_busy,
        "kills of Redis, all while jobs ran": found.redis_kills,
        "times that a job lost its worker": len(found.resumptions),
        "resumed before the next worker of the job was killed": len(found.resumed_s),
        "resumed from a step > 0": found.from_savepoints,
        f"begun anew after more than {SAVED_WITHIN_S:.0f} s of work": len(found.unsaved),
        "killed again before it began again": len(never),
        "seconds from the kill to the resumption": spread(found.resumed_s),
        "strict results equal to an unbroken run's, byte by byte": f"{found.twins_equal} of {found.twins}",
        "seconds of a worker's start until it was ready": spread(found.starts),
        "seconds of jobs that were never broken": spread(found.lengths),
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
