"""One process at a time writes to a folder: a lock that the kernel frees with the process that has it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from core.errors import ConfigurationError

LOCK = ".lock"
LOOK_S = 0.5  # how often who waits for another process looks whether it is done


@contextmanager
def alone_in(folder: Path, stop: Callable[[], bool]) -> Iterator[bool]:
    """Wait until no other process writes to a folder; False if `stop` said so before.

    Raises:
        ConfigurationError: its disk knows no locks.
    """
    with (folder / LOCK).open("w", encoding="utf-8") as file:
        # Helper processes outlive a killed run by seconds, in which the next piece would find the lock taken.
        os.register_at_fork(after_in_child=file.close)
        while not (alone := _locked(file, folder)) and not stop():
            time.sleep(LOOK_S)
        yield alone


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make the folder that a run writes to, and keep other processes out of it.

    Raises:
        ConfigurationError: another one writes there, or its disk knows no locks.
    """
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out, lambda: True) as alone:
        if not alone:
            detail = f"out is {out}; another process works there: wait for its end, or choose another `out`"
            raise ConfigurationError(detail, field="out", value=str(out), bound="a folder that no process works in")
        yield


def _locked(file: IO[str], folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{folder}: can't be locked: {error.strerror}", value=str(folder)) from error
    return True
