"""Gateways and workers of this release and of its neighbour, as processes on one Redis and storage.

Until there is a release before this one, the neighbour is this tree writing fields that nobody knows yet. From the next
release on NEIGHBOUR is a frozen copy of the last one: its folder of code, and the same module as THIS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from core.settings import Settings
from tests.integration.processes import COMMAND, WorkerProcess
from tests.service import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Release:
    """Where a release's code is, and the module that runs its commands."""

    code: Path
    module: str


THIS = Release(ROOT, "latentd")
NEIGHBOUR = Release(ROOT, "tests.integration.newer")


class Started(WorkerProcess):
    """A process of a release."""

    def __init__(self, release: Release, settings: Settings, folder: Path, *arguments: str) -> None:
        more = {"PYTHONPATH": str(release.code), "LATENTD_MODEL": "tiny"}
        super().__init__(settings, folder, forked=False, command=arguments, module=release.module, more=more)


@contextmanager
def worker(release: Release, settings: Settings, folder: Path) -> Iterator[Started]:
    """A worker of the tiny model that serves."""
    started = Started(release, settings, folder, *COMMAND)
    try:
        started.ready()
        yield started
    finally:
        started.kill()


@contextmanager
def gateway(release: Release, settings: Settings, folder: Path) -> Iterator[httpx2.Client]:
    """A client of a gateway."""
    port = free_port()
    started = Started(release, settings, folder, "gateway", "--port", str(port))
    try:
        started.ready()
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        started.kill()
