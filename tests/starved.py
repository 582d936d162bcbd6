"""How long threads were ready to run while others had the cores: what a bound of real time owes to a busy machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path


def thread_starved_s(pid: int, thread: int) -> float:
    """Seconds that one thread has waited for a core: the second number of its schedstat."""
    return _starved_s(Path(f"/proc/{pid}/task/{thread}"))


def process_starved_s(pid: int) -> float:
    """Seconds that the threads of a process, and of its children, have waited for a core, all together."""
    threads = list(Path(f"/proc/{pid}/task").glob("*"))
    children = [int(child) for thread in threads for child in _text(thread / "children").split()]
    return sum(map(_starved_s, threads)) + sum(map(process_starved_s, children))


def allowance(*starved: Callable[[], float]) -> Callable[[], float]:
    """The seconds that this thread and others were starved of since now; next to none on an idle machine."""
    here = os.getpid(), threading.get_native_id()

    def now() -> float:
        return thread_starved_s(*here) + sum(each() for each in starved)

    before = now()
    return lambda: max(0.0, now() - before)  # threads that ended take theirs along


def _starved_s(thread: Path) -> float:
    told = _text(thread / "schedstat").split()
    return int(told[1]) / 1e9 if told else 0.0


def _text(path: Path) -> str:
    """What the kernel says, and nothing of a thread that has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        if path.parent.exists():
            raise
        return ""
