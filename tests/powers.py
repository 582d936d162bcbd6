"""Root without the power to read what file modes forbid, so that tests of closed files hold for root, too."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
READING = (1 << 1) | (1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

LIBC = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Powers(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Let modes of files bind this thread, whoever runs it."""
    powers = (_Powers * 2)()
    _ask(LIBC.capget, powers)
    before = powers[0].effective
    powers[0].effective = before & ~READING
    _ask(LIBC.capset, powers)
    try:
        yield
    finally:
        powers[0].effective = before
        _ask(LIBC.capset, powers)


def _ask(call: ctypes._NamedFuncPointer, powers: ctypes.Array[_Powers]) -> None:
    if call(ctypes.byref(_Header(VERSION, 0)), powers):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
