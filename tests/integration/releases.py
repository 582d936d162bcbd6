"""Gateways and workers of this release and of its neighbour, as processes on one Redis and storage.

Until there is a release before this one, the neighbour is this tree writing fields that nobody knows yet. From the next
release on NEIGHBOUR is a frozen copy of the last one: its folder of code, and the same module as THIS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from core.settings import Settings
from latentd.child import die_with_parent
from tests.integration.processes import wait_for
from tests.service import free_port

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0


@dataclass(frozen=True, slots=True)
class Release:
    """Where a release's code is, and the module that runs its commands."""

    code: Path
    module: str


THIS = Release(ROOT, "latentd")
NEIGHBOUR = Release(ROOT, "tests.integration.newer")


class Started:
    """A process of a release; its log goes to a file."""

    def __init__(self, release: Release, settings: Settings, folder: Path, *arguments: str) -> None:
        self.log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        environment = os.environ | {
            "PYTHONPATH": str(release.code),
            "REDIS_URL": settings.redis,
            "LATENTD_MODELS_DIR": str(settings.models_dir),
            "LATENTD_DATA_DIR": str(settings.data_dir),
            "LATENTD_MODEL": "tiny",
            "LATENTD_THREADS": "1",
        }
        command = [sys.executable, "-m", release.module, *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stderr=log, stdout=log, preexec_fn=die_with_parent
            )

    def ready(self) -> None:
        """Wait until it serves."""
        wait_for(lambda: '"ready"' in self.log.read_text() or self.process.poll() is not None, START_S, "start")
        assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait()


@contextmanager
def worker(release: Release, settings: Settings, folder: Path) -> Iterator[Started]:
    """A worker of the tiny model that serves."""
    started = Started(release, settings, folder, "worker", "--model", "tiny", "--device", "cpu")
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
