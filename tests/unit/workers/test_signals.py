"""Signals: what they interrupt goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

# The line is longer than a pipe: who writes it waits, with the log's lock, until somebody reads.
WORKER = """
import structlog
from core.logs import configure
from workers.signals import Signals

class Loop:
    graces = []
    def stop(self, grace_s):
        self.graces.append(grace_s)

configure("info")
Signals().drain(Loop(), 5.0)
structlog.get_logger().info("x" * 500_000)
assert Loop.graces == [5.0], Loop.graces
"""


SWALLOWED = """
import os, signal
from workers.signals import Signals

signals = Signals()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except BaseException:  # as torch does that imports numpy
    pass
assert signals.told
signals.drain(None, 5.0)
raise ValueError
"""


def test_a_signal_that_an_import_keeps_to_itself_ends_the_worker_before_its_first_job() -> None:
    assert subprocess.run([sys.executable, "-c", SWALLOWED], check=False, timeout=20).returncode == 0


def test_a_signal_in_the_middle_of_a_log_line_is_no_deadlock() -> None:
    process = subprocess.Popen([sys.executable, "-c", WORKER], stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        os.read(process.stderr.fileno(), 1)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, rest[-2000:]
