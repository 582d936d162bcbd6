"""`latentd gateway` as a process of its own, whose memory and answers are watched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.gateway import settings_for
from tests.service import free_port
from tests.starved import allowance

ANSWER_S, PULSE_S = 5.0, 1.0  # within which any body of 32 MB is answered, and /livez meanwhile


@dataclass(slots=True)
class Watched:
    """Seconds of a block, and of each /livez meanwhile."""

    seconds: float = 0.0
    pulse: list[float] = field(default_factory=list)


class GatewayProcess:
    """`latentd gateway` on a port of its own."""

    def __init__(self, redis_url: str, folder: Path, **variables: str) -> None:
        made = settings_for(redis_url, folder)
        port = free_port()
        environment = os.environ | {
            "REDIS_URL": redis_url,
            "LATENTD_DATA_DIR": str(made.data_dir),
            "LATENTD_MODELS_DIR": str(made.models_dir),
            "LATENTD_PORT": str(port),
            **variables,
        }
        self.objects = made.data_dir / "objects"
        self.process = subprocess.Popen([sys.executable, "-m", "latentd", "gateway"], env=environment)
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def wait(self) -> None:
        ends = time.monotonic() + 180
        while True:
            try:
                self.client.get("/livez")
                return
            except httpx2.TransportError:
                assert time.monotonic() < ends
                assert self.process.poll() is None
                time.sleep(0.05)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(60)

    def children(self) -> list[int]:
        """The processes that it started and that still run."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    @contextmanager
    def watched(self) -> Iterator[Watched]:
        """Time the block, and /livez meanwhile, without what gateway, decoders and this process wait for a core."""
        seen, allowed = Watched(), allowance(self.process.pid)
        over, begun = threading.Event(), threading.Event()

        def beat() -> None:
            with httpx2.Client(base_url=self.client.base_url, timeout=60, trust_env=False) as client:
                while not over.is_set():
                    seen.pulse.append(self._livez_s(client))
                    allowed()  # asked again and again, since decoders may be killed
                    begun.set()
                    over.wait(0.02)

        thread = threading.Thread(target=beat)
        thread.start()
        begun.wait(10)
        began = time.monotonic()
        try:
            yield seen
            seen.seconds = time.monotonic() - began
        finally:
            over.set()
            thread.join()
        seen.seconds -= allowed()

    def _livez_s(self, client: httpx2.Client) -> float:
        allowed, began = allowance(self.process.pid, self.process.pid), time.monotonic()
        client.get("/livez")
        return time.monotonic() - began - allowed()

    def peak_mb(self) -> float:
        """The most memory that it ever held."""
        return peak_mb(self.process.pid)

    def stored(self) -> list[Path]:
        return [path for path in self.objects.rglob("*") if path.is_file()]


def peak_mb(pid: int) -> float:
    """The most memory that a process ever held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024
