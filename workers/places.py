"""Where a process lives, so that a neighbour on its machine sees at once that it died, before its heartbeats lapse.

A place names the kernel's boot, the namespace of process ids, the process and when it started: no other process has
it, in no container and after no restart. Where /proc isn't there, places are unknown and only heartbeats tell.
"""

from __future__ import annotations

import os
from pathlib import Path

PLACE_FIELD = "place"  # of RQ's hash of a worker
PROC = Path("/proc")
DEAD = ("Z", "X")  # states of processes that only wait to be noticed by their parent


def my_place() -> str:
    """This process's place; empty where unknown."""
    return _place_of(os.getpid())


def is_dead(place: str) -> bool:
    """Whether the process lived where this one can look, and is there no more."""
    neighbourhood, _, rest = place.rpartition("/")
    process = rest.partition(":")[0]
    if not process.isdecimal() or neighbourhood != _neighbourhood():
        return False
    return _place_of(int(process)) != place


def _neighbourhood() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _place_of(process: int) -> str:
    neighbourhood = _neighbourhood()
    try:
        # Fields of proc(5)'s stat behind the name, which may hold spaces: state is the third, start time the 22nd.
        fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if not neighbourhood or fields[0] in DEAD else f"{neighbourhood}/{process}:{fields[19]}"
