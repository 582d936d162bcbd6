"""Folders that are written whole or not at all: a new one takes the place of the one before by renames."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which is `folder` once all is written."""
    recover(folder)
    unfinished, old = folder.with_name(f".{folder.name}.unfinished"), _old(folder)
    for left in (unfinished, old):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what a kill between the two renames left under another name: the only whole one."""
    if not folder.exists():
        # None is there, or another process of the run was faster; what isn't a folder is told where it is written to.
        with suppress(FileNotFoundError, NotADirectoryError):
            _old(folder).rename(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
