"""Waiting for what happens elsewhere: in another process, in another thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(ready: Callable[[], object], seconds: float, what: str) -> float:
    """Poll every 5 ms until `ready`; the seconds that it took."""
    began = time.monotonic()
    while not ready():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - began


def within(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What is found in time, or what is there then."""
    until = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < until:
        time.sleep(0.01)
    return value
