"""One soak from nothing to its findings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from core.storage import open_store
from tests.integration.rig import tiny_settings, write_models
from tests.redis_server import RedisServer
from tests.soak.drive import Driver
from tests.soak.findings import broken_strict_jobs, find
from tests.soak.fleet import Fleet
from tests.soak.plan import Plan
from tests.soak.report import page


def soak(plan: Plan, folder: Path, tell: Callable[[str], None]) -> tuple[list[str], str]:
    """Run `plan` in `folder`; what did not hold, and the log as a page."""
    told: list[str] = []
    began = time.monotonic()

    def note(line: str) -> None:
        told.append(f"{time.monotonic() - began:7.1f} s  {line}")
        tell(line)

    with RedisServer(aof=True) as server:
        tiny = tiny_settings(write_models(folder / "models"), server.url, folder / "data")
        settings = tiny.model_copy(update={"max_rows": plan.rows})
        fleet = Fleet(settings, server, folder, plan.workers, plan.forked)
        try:
            fleet.wait_until_served()
            note(f"{plan.workers} workers serve after {', '.join(f'{one:.1f}' for one in fleet.starts)} s")
            driver = Driver(plan, fleet, note)
            driver.measure()
            story = driver.run()
            note(f"all {len(story.jobs)} jobs have ended")
            driver.run_twins(broken_strict_jobs(story, fleet.logs)[: plan.twins])
            found = find(story, server.connect(), open_store(settings.storage), fleet.logs, fleet.starts)
        finally:
            fleet.stop()
    complaints = found.complaints(plan)
    return complaints, page(plan, found, told, complaints)
