"""What commands that draw show and write; files are looked at first, and none is overwritten unasked."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core.errors import ConfigurationError, InvalidRequest
from latentd.cli.console import drop_output, plain, print_json

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


class Drawn(NamedTuple):
    """A picture's file, and what is told of it."""

    data: bytes
    width: int
    height: int
    seed: int


def progress_bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=plain(stderr=True))


def warn(messages: Iterable[str]) -> None:
    for message in messages:
        plain(stderr=True).print(f"warning: {message}", style="yellow")


def write(
    drawn: Iterable[Drawn], paths: Sequence[Path], request: Mapping[str, Any], *, force: bool, json: bool
) -> None:
    """Write each picture as it comes, and say where they are.

    Raises:
        ConfigurationError: a file can't be written after all, as on a full disk.
    """
    images, lines = [], []
    try:
        for picture, path in zip(drawn, paths, strict=True):
            written = write_file(path, picture.data, force=force)
            images.append({"path": written, "seed": picture.seed, "width": picture.width, "height": picture.height})
            lines.append(f"{written}: {picture.width}×{picture.height}, seed {picture.seed}")
    finally:
        if lines and not json:
            _tell(lambda: typer.echo("\n".join(lines)))
    if json:
        _tell(lambda: print_json({"images": images, "request": request}))


def _tell(say: Callable[[], None]) -> None:
    """Say where the files are; they are there also where nobody hears it."""
    try:
        say()
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # who has read enough knows that there is more
            warn([f"standard output: {error.strerror}; the files are written"])
        drop_output()


def paths_for(out: Path, images: int, *, force: bool) -> list[Path]:
    """Name the files of so many images: `out` for one, else -0, -1, …; names that are taken are passed over.

    `force` takes them all the same.

    Raises:
        ConfigurationError, InvalidRequest: as `check_out`, of any of them.
    """
    names = (path for path in _names(out, images) if force or not _taken(path))
    paths = list(islice(names, images))
    for path in paths:
        check_out(path)
    return paths


def _names(out: Path, images: int) -> Iterator[Path]:
    if images == 1:
        yield out
    yield from (out.with_stem(f"{out.stem}-{k}") for k in count(int(images == 1)))


def _taken(path: Path) -> bool:
    return os.path.lexists(path) and not path.is_dir()


def check_out(out: Path) -> None:
    """Before anything is computed: see that `out` names a format and can probably be written.

    Raises:
        InvalidRequest: it ends in no format's suffix.
        ConfigurationError: its folder isn't there or isn't ours to write in, or it is a folder itself.
    """
    if out.suffix.lower() not in FORMATS:
        raise InvalidRequest(f"--out {out}: ends in none of {', '.join(FORMATS)}", field="out", value=str(out))
    if not out.parent.is_dir():
        raise _unwritable(out, f"{out.parent} is no folder")
    if out.is_dir():
        raise _unwritable(out, "it is a folder")
    # The old file stays until the new one, which is written beside it, is whole.
    places = [_target(out).parent, *([out] if out.exists() else [])]
    if not all(os.access(place, os.W_OK) for place in places):
        raise _unwritable(out, "no permission to write there")


def write_file(path: Path, data: bytes, *, force: bool) -> Path:
    """Write a file, whole or not at all, and return its path: the next name that is free where somebody took this one
    meanwhile, unless `force` exchanges what is there.

    Raises:
        ConfigurationError: it can't be written after all, as on a full disk.
    """
    whole = _target(path).with_name(f".{secrets.token_hex(8)}.part")
    try:
        if force and path.exists() and not path.is_file():
            path.write_bytes(data)  # a pipe or a device passes it on, and stays
            return path
        whole.write_bytes(data)
        return _replace(path, whole) if force else _place(path, whole)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):  # it has its name, or was never there
            whole.unlink()


def _replace(path: Path, whole: Path) -> Path:
    target = _target(path)
    if target.exists():
        shutil.copymode(target, whole)
    try:
        whole.replace(target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):  # a file that is mounted by itself can't be exchanged
            raise
        target.write_bytes(whole.read_bytes())
    return path


def _place(path: Path, whole: Path) -> Path:
    for name in (path, *islice(_names(path, 1), 1, 1000)):
        with suppress(FileExistsError):
            name.touch(exist_ok=False)  # ours from here on; not by a hard link, which not every file system has
            try:
                whole.replace(name)
            except BaseException:
                name.unlink(missing_ok=True)
                raise
            return name
    raise _unwritable(path, "it is there already")


def _target(path: Path) -> Path:
    """Return where a symbolic link leads: it stays one."""
    return Path(os.path.realpath(path))


def _unwritable(out: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"--out {out}: {reason}", field="out", value=str(out), bound="a file that can be written")
