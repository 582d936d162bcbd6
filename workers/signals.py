"""What SIGTERM and SIGINT do to a worker, from the first moment of its process on."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Protocol

SECOND_SIGNAL_S = 1.0  # a terminal's Ctrl-C and a supervisor's SIGTERM often come together and count once


class Stoppable(Protocol):
    """A loop that can be told to end within some seconds."""

    def stop(self, grace_s: float) -> None: ...


class Signals:
    """SIGTERM and SIGINT: until there is a loop to drain they end the process, which holds nothing then.

    Handled from the start, before torch is imported: the kernel drops a signal that the first process of a container
    doesn't handle. Nothing is logged here: what a signal interrupts may be the writing of a line, which holds the log's
    lock, and would be waited for for ever.
    """

    def __init__(self) -> None:
        self._drain_s = 0.0
        self._loop: Stoppable | None = None
        self._first: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    @property
    def told(self) -> bool:
        """Whether one came before there was a loop: what was just imported may have kept the exit to itself."""
        return self._first is not None and self._loop is None

    def drain(self, loop: Stoppable, drain_s: float) -> None:
        """From now on a signal stops `loop`, within `drain_s`."""
        if self.told:
            raise SystemExit(0)
        self._loop, self._drain_s = loop, drain_s

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        first, now = self._first is None, time.monotonic()
        self._first = self._first or now
        if self._loop is None:
            if first:
                raise SystemExit(0)
        elif first:
            self._loop.stop(self._drain_s)
        elif now - self._first > SECOND_SIGNAL_S:
            self._loop.stop(0)
