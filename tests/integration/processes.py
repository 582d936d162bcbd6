"""Workers as processes of their own, to be signalled and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from core.settings import Settings
from latentd.child import die_with_parent
from tests.forks import ForkedCommand
from tests.starved import allowance
from tests.waits import wait_for

START_S = 180.0
Process = ForkedCommand | subprocess.Popen[bytes]
COMMAND = ("worker", "--model", "tiny", "--device", "cpu")


def ended(process: Process, seconds: float) -> int:
    """The exit status of a process that ends within so many seconds, without those that it was starved of."""
    allowed, began = allowance(process.pid), time.monotonic()
    while (status := process.poll()) is None:
        assert time.monotonic() - began - allowed() < seconds, f"it didn't end within {seconds} s"
        time.sleep(0.01)
    return status


class WorkerProcess:
    """`latentd worker --model tiny`, or another command, with these settings; its log goes to a file.

    It starts behind its imports, unless the way to there counts, too: `forked`. Another `module` always goes that way.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        drain_s: float = 30,
        forked: bool = True,
        command: Sequence[str] = COMMAND,
        module: str = "latentd",
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.log = folder / f"{command[0]}-{time.monotonic_ns()}.log"
        environment = os.environ | {
            "REDIS_URL": settings.redis,
            "LATENTD_MODELS_DIR": str(settings.models_dir),
            "LATENTD_DATA_DIR": str(settings.data_dir),
            "LATENTD_RETENTION_S": str(settings.retention_s),
            "LATENTD_DRAIN_S": str(drain_s),
            "LATENTD_MAX_ROWS": str(settings.max_rows),
            "LATENTD_THREADS": "1",
            **more,
        }
        self.log.touch()
        self.process: Process = (
            ForkedCommand(command, environment, self.log) if forked else _fresh(module, command, environment, self.log)
        )

    def ready(self) -> None:
        """Wait until it serves."""
        wait_for(lambda: '"ready"' in self.log.read_text() or self.process.poll() is not None, START_S, "start")
        assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """As `kill -9`."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return ended(self.process, seconds)

    def rss_mb(self) -> float:
        """Resident memory, in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _fresh(module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """As a shell starts it."""
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stderr=output, stdout=output, preexec_fn=die_with_parent)
