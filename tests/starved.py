"""How long threads were ready to run while others had the cores: what a bound of real time owes to a busy machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path


def allowance(pid: int | None = None, thread: int | None = None) -> Callable[[], float]:
    """The seconds that this thread was starved of since now, and those of a process with its children, or one thread.

    On an idle machine that is next to nothing. Threads are known from the first time that it is asked while they live:
    where they may end in between it is asked again and again.
    """
    own = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}")

    def now() -> dict[Path, float]:
        found = {task: _starved_s(task) for task in {own, *_tasks(pid, thread)}}
        return {task: seconds for task, seconds in found.items() if seconds is not None}

    before = now()
    last = dict(before)

    def seconds() -> float:
        last.update(now())
        return sum(starved - before.get(task, 0.0) for task, starved in last.items())

    return seconds


def _tasks(pid: int | None, thread: int | None) -> list[Path]:
    """Threads of a process and of its children, or one of them."""
    if pid is None:
        return []
    if thread is not None:
        return [Path(f"/proc/{pid}/task/{thread}")]
    tasks = list(Path(f"/proc/{pid}/task").glob("*"))
    children = [int(child) for task in tasks for child in _text(task / "children").split()]
    return [*tasks, *(task for child in children for task in _tasks(child, None))]


def _starved_s(task: Path) -> float | None:
    """The second number of a thread's schedstat, nanoseconds on a run queue; None of one that has ended."""
    told = _text(task / "schedstat").split()
    return int(told[1]) / 1e9 if told else None


def _text(path: Path) -> str:
    """What the kernel says, and nothing of a thread that has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        if path.parent.exists():
            raise
        return ""
