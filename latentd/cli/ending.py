"""How a command ends that can't go on: its last words and its exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import structlog

from core import logs
from core.errors import LatentdError
from latentd.cli.console import drop_output, plain

REFUSED_EXIT = 1
FAULT_EXIT = 70  # EX_SOFTWARE
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

P = ParamSpec("P")


def told_to_people(error: Exception) -> int:
    """Say on standard error why a command ends: one line, or the traceback of a fault of ours; its exit code."""
    if (detail := _expected(error)) is None:
        traceback.print_exception(error)
        return FAULT_EXIT
    plain(stderr=True).print(f"latentd: {detail}", style="red", soft_wrap=True)
    return REFUSED_EXIT


def told_to_log(error: Exception) -> int:
    """Do as `told_to_people`, by a line of the log, which a wrong setting may have kept from being configured."""
    logs.configure("info")
    if (detail := _expected(error)) is None:
        structlog.get_logger().critical("a fault of ours", exc_info=error)
        return FAULT_EXIT
    structlog.get_logger().critical("can't work", detail=detail)
    return REFUSED_EXIT


def logged(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command that serves end as it spoke: where its log is JSON, by a line of that."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except Exception as error:
            if not logs.are_json():
                raise
            sys.exit(told_to_log(error))

    return run


def _expected(error: Exception) -> str | None:
    """Why something can't work, on one line; None for a fault of ours, after which starting again may help."""
    if isinstance(error, LatentdError):
        return error.detail
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} isn't installed here; pip install -e '.[worker]' brings what draws"
    if isinstance(error, OSError) and error.errno in NO_ROOM and (reason := _full_output()):
        return f"standard output: {reason}"
    return None


def _full_output() -> str | None:
    """Why standard output takes nothing more, and what it didn't take is dropped; None where it does."""
    try:
        if sys.stdout is not None:
            sys.stdout.write("\n")  # an empty write would pass
            sys.stdout.flush()
    except OSError as error:
        drop_output()
        return error.strerror
    return None
