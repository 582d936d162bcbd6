"""One data directory, one service: a lock that the kernel frees with the last process that has it open."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ConfigurationError
from core.storage import private_folder

LOCK = "up.lock"
LEAVING_S = 15.0  # a Redis that outlived its `up`, which was killed, ends within this
BOUND = "a directory that no other service uses"


def lock(data_dir: Path) -> int:
    """Lock a data directory for this process and those that inherit the descriptor that is returned.

    Raises:
        ConfigurationError: another service has it, or it can't be written.
    """
    descriptor = _open(data_dir)
    until = time.monotonic() + LEAVING_S
    while not _taken(descriptor, data_dir):
        holder = _holder(descriptor)
        if _runs(holder.get("pid")) or time.monotonic() > until:
            os.close(descriptor)
            raise _refused(data_dir, f"is in use by `latentd up`, {_shown(holder)}: stop that one, or name another")
        time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    with suppress(OSError):  # on a full disk others are told less
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": _now()}).encode(), 0)
    return descriptor


def _open(data_dir: Path) -> int:
    file = private_folder(data_dir, "LATENTD_DATA_DIR") / LOCK
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _refused(data_dir, f"can't be written: {error.strerror}") from error


def _taken(descriptor: int, data_dir: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _refused(data_dir, f"can't be locked: {error.strerror}") from error
    return True


def _holder(descriptor: int) -> dict[str, object]:
    """Who wrote into the file last; empty while the holder hasn't yet."""
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _runs(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as somebody else
    return True


def _shown(holder: dict[str, object]) -> str:
    return f"process {holder['pid']} since {holder['since']}" if {"pid", "since"} <= holder.keys() else "just starting"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refused(data_dir: Path, why: str) -> ConfigurationError:
    detail = f"LATENTD_DATA_DIR={data_dir} {why}"
    return ConfigurationError(detail, field="LATENTD_DATA_DIR", value=str(data_dir), bound=BOUND)
