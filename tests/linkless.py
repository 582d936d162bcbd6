"""A process without hard links, as on file systems that have none: `python -m tests.linkless FOLDER` stores there.

It creates an object, the same again, and the pair's id; what it finds is printed as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import sys

from obstore.exceptions import AlreadyExistsError

from core.storage import create, open_store, put_image

LINK, LINKAT = 86, 265  # on x86-64
NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of BPF: of the number of the call


class _Statement(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("statements", ctypes.POINTER(_Statement)))


def refuse_links() -> None:
    """Let no thread that begins from now on make a hard link."""
    rows = [(LOAD, 0, 0, 0), (IF_EQUAL, 1, 0, LINK), (IF_EQUAL, 0, 1, LINKAT)]
    rows += [(RETURN, 0, 0, REFUSE | errno.EOPNOTSUPP), (RETURN, 0, 0, ALLOW)]
    program = _Program(len(rows), (_Statement * len(rows))(*(_Statement(*row) for row in rows)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def run(folder: str) -> dict[str, str]:
    """Store by the ways that images and ids go."""
    store, found = open_store(folder), dict[str, str]()
    put_image(store, "images/a/e/0.png", b"first", "image/png")
    try:
        put_image(store, "images/a/e/0.png", b"second", "image/png")
    except AlreadyExistsError:
        found["again"] = "exists"
    create(store, "deployment", b"id")
    return found | {path: bytes(store.get(path).bytes()).decode() for path in ("images/a/e/0.png", "deployment")}


if __name__ == "__main__":
    refuse_links()
    sys.stdout.write(json.dumps(run(sys.argv[1])))
