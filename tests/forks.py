"""Processes that start in a moment: children of a server that has torch and transformers in memory, and no thread."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentd.child import die_with_parent
from latentd.cli import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["latentd.cli", "workers.worker", "models.networks.text_encoders"])


class ForkedCommand:
    """A `latentd` command behind its imports, with what `subprocess.Popen` offers of a process."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process = FORKS.Process(target=_run, args=(arguments, dict(environment), log))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("latentd", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _run(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    die_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["latentd", *arguments]
    main()
