"""A process that `latentd up` supervises: started, tended and stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog

PR_SET_PDEATHSIG = 1
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 4.0)
STEADY_S = 30.0  # a child that lived this long starts again without backoff
KILLED_S = 2.0  # that an end by SIGKILL is waited for
CHECKED_EVERY = 10
LOG_BYTES = 1 << 20
REFUSED_EXIT = 1  # of a command that said in one line why it can't work

log = structlog.get_logger()


def die_with_parent() -> None:
    """Runs in the child: the kernel sends it SIGTERM if the supervisor dies, even by kill -9; Ctrl-C stays ours."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One supervised process and how often it died in a row."""

    name: str
    command: Sequence[str]
    env: dict[str, str]
    stop_s: float
    ready: Callable[[], None] = lambda: None
    more: Callable[[], Sequence[str]] = tuple
    """Arguments that are found anew at each start."""
    ended: Callable[[int], None] = lambda _code: None
    """Called with the exit status of each tenth in a row that ends soon, from the first on; raises where starting again
    is no use."""
    refusal: int | None = None
    """Exit status by which its first start says that it can't work; Redis ends with 1 for a full disk, too."""
    keeps: Sequence[int] = ()
    """Descriptors that it inherits."""
    log_file: Path | None = None
    """Where its output goes, if not to the terminal."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    starts: int = 0
    deaths: int = 0
    start_at: float = field(default=0.0)

    def start(self) -> None:
        """Start, the first time until it is ready: later the others wait by themselves, for a full disk as well."""
        self.starts, self.started = self.starts + 1, time.monotonic()
        with ExitStack() as files:
            log_to = None if self.log_file is None else files.enter_context(open_log(self.log_file))
            self.process = subprocess.Popen(
                [*self.command, *self.more()],
                env=self.env,
                stdout=log_to,
                stderr=log_to,
                pass_fds=self.keeps,
                preexec_fn=die_with_parent,
            )
        if self.starts == 1:
            self.ready()

    def tend(self, now: float) -> None:
        """Note a death, and start again when its backoff is over.

        Raises:
            ConfigurationError, SystemExit: starting again is no use.
        """
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process = None
            soon = now - self.started <= STEADY_S
            self._refuse_if_useless(code, soon)
            self.deaths = self.deaths + 1 if soon else 0
            wait = BACKOFF_S[min(self.deaths, len(BACKOFF_S)) - 1] if self.deaths else 0.0
            self.start_at = now + wait
            log.warning("child died, restarting", child=self.name, exit_code=code, wait_s=wait)
        if self.process is None and now >= self.start_at:
            self.start()

    def _refuse_if_useless(self, code: int, soon: bool) -> None:
        """What can't work has said why; faults and signals end otherwise."""
        if soon and self.deaths % CHECKED_EVERY == 0:  # the check takes long; what ran a while could start
            self.ended(code)
        if code == self.refusal and self.starts == 1:
            log.error("child can't work, stopping all", child=self.name)
            raise SystemExit(REFUSED_EXIT)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def terminate(self) -> None:
        """Send SIGTERM, if it runs."""
        if self.process is not None:
            self.process.terminate()

    def kill(self, why: str) -> None:
        """Send SIGKILL, and wait for the end; not for long: one that waits for a dead disk can't end."""
        if self.process is not None:
            log.warning(why, child=self.name)
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(KILLED_S)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL once `stop_s` has passed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            self.kill("child did not stop, killing it")


def open_log(file: Path) -> BinaryIO:
    """Open a log to append to; one that has grown large begins anew."""
    large = file.exists() and file.stat().st_size > LOG_BYTES
    return file.open("wb" if large else "ab")
