"""A folder of pictures: `metadata.jsonl` as imagefolder has it, or `.txt` files beside them, or folders of classes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ConfigurationError

METADATA = "metadata.jsonl"
TABLES = (METADATA, "metadata.csv", "metadata.parquet")  # any of which imagefolder reads, in any folder
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNREAD = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".psd",
    ".svg",
    ".jp2",
    ".ppm",
    ".tga",
)  # pictures, too, whose lack would go unnoticed
CAPTIONS = ("text", "caption")  # columns, the first that a line has
HELD_OUT_STEPS = 1 << 16
INTEGER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and what is known of it; one of its captions is drawn each time."""

    file: Path
    captions: tuple[str, ...] = ()
    label: str | None = None
    concept: str | None = None  # what it shows in one of several styles
    map: Path | None = None  # a label map: one channel of class numbers, as large as the picture
    weights: dict[str, float] = field(default_factory=dict)  # every numeric column


@dataclass(frozen=True, slots=True)
class Folder:
    """The pictures of a data set in a fixed order, and the names of their classes."""

    path: Path
    items: tuple[Item, ...]
    classes: tuple[str, ...]
    fingerprint: str  # of captions, labels, and names and contents of pictures and maps

    def label(self, index: int) -> int:
        """Return the class number of a picture."""
        return self.classes.index(str(self.items[index].label))


def read_folder(path: Path, *, captions: bool = False, labels: bool = False, maps: bool = False) -> Folder:
    """Read what a folder holds; pictures are not decoded yet.

    Raises:
        ConfigurationError: there are no pictures, a file is missing, or some have none of what is needed.
    """
    if not path.is_dir():
        raise ConfigurationError(f"{path}: no such folder", field="data.folder", value=str(path))
    metadata = path / METADATA
    items = tuple(_listed(metadata) if metadata.is_file() else _found(path))
    if not items:
        detail = f"{path}: no pictures ({METADATA}, or files that end in {', '.join(SUFFIXES)})"
        raise ConfigurationError(detail, field="data.folder", value=str(path))
    for wanted, what, has in (
        (captions, "caption", [bool(item.captions) for item in items]),
        (labels, "label", [item.label is not None for item in items]),
        (maps, "map", [item.map is not None for item in items]),
    ):
        if wanted and not all(has):
            raise _lacking(path, what, [item for item, there in zip(items, has, strict=True) if not there], len(items))
    return Folder(path, items, _classes(items), _fingerprint(path, items))


def check_apart(out: Path, folder: Path) -> None:
    """Refuse to write grids where all that is a picture counts as one of the data's.

    Raises:
        ConfigurationError: `out` is below `folder`, which has no metadata.jsonl to say what its pictures are.
    """
    there, place = folder.resolve(), out.resolve()
    if place.is_relative_to(there) and not _hidden(there, place) and not (folder / METADATA).is_file():
        detail = f"out is {out}, below data.folder ({folder}): its grids would be pictures of the data; choose another"
        raise ConfigurationError(detail, field="out", value=str(out), bound=str(folder))


def split_held_out(folder: Folder, share: float) -> tuple[Folder, Folder]:
    """Split off about `share` of the pictures, by a hash of their names, for measures: training and held out.

    Pictures of one concept stay together: the same thing in another style would be seen otherwise.
    """
    held = [_hashed(item.concept or _relative(folder.path, item.file)) < share for item in folder.items]
    parts = [tuple(i for i, out in zip(folder.items, held, strict=True) if out is side) for side in (False, True)]
    if not parts[0]:
        detail = f"held_out is {share}; no picture of {len(folder.items)} is left to train on"
        raise ConfigurationError(detail, field="data.held_out", value=share)
    return (
        Folder(folder.path, parts[0], folder.classes, f"{folder.fingerprint}-{share}"),
        Folder(folder.path, parts[1], folder.classes, f"{folder.fingerprint}+{share}"),
    )


def weights_of(folder: Folder, column: str) -> list[float]:
    """Return a column of weights.

    Raises:
        ConfigurationError: a picture has no such number, or none weighs anything.
    """
    lacking = [item for item in folder.items if column not in item.weights]
    if lacking:
        raise _lacking(folder.path, column, lacking, len(folder.items))
    values = [item.weights[column] for item in folder.items]
    if not (min(values) >= 0 and 0 < sum(values) < math.inf):  # nan, too
        detail = f"{folder.path / METADATA}: column {column!r} must be ≥ 0 and somewhere more"
        raise ConfigurationError(detail, field="data.weights", value=column)
    return values


def _listed(metadata: Path) -> Iterable[Item]:
    with metadata.open("rb") as lines:  # as `splitlines` would end some within their strings
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _item(metadata, number, line)


def _item(metadata: Path, number: int, line: bytes) -> Item:
    where = f"{metadata}, line {number}"
    try:
        row: dict[str, Any] = json.loads(_text(line, where))
        name = str(row["file_name"])
        weights = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{where}: must be a JSON object with file_name") from error
    except OverflowError as error:
        raise ConfigurationError(f"{where}: has a number beyond what weights can be") from error
    if Path(name).is_absolute():
        raise ConfigurationError(f"{where}: file_name is {name}; it must be relative to {metadata.parent}", value=name)
    text = next((row[key] for key in CAPTIONS if key in row), ())
    told = [text] if isinstance(text, str) else text
    if not isinstance(told, list | tuple) or not all(isinstance(caption, str) for caption in told):
        raise ConfigurationError(f"{where}: text must be a caption or a list of captions", value=text)
    label = _label(row.get("label"))
    for value in (*told, *(() if label is None else (label,))):
        _check_whole(value, where)
    return Item(
        _there(metadata.parent / name, where),
        tuple(caption for caption in told if caption.strip()),
        label,
        label if "style" in row else None,
        None if row.get("map") is None else _there(metadata.parent / str(row["map"]), where),
        weights,
    )


def _label(value: Any) -> str | None:
    """Return a label as text; 1.0, as tables with gaps write it, is the whole number that it means."""
    whole = isinstance(value, float) and value.is_integer()
    return None if value is None else str(int(value) if whole else value)


def _check_whole(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        detail = f"{where}: {text!a} has half of a character, which JSON may say and no other file can hold"
        raise ConfigurationError(detail, value=ascii(text)) from error


def _classes(items: Iterable[Item]) -> tuple[str, ...]:
    """Return the labels in order of class numbers: as words, or as numbers where all of them are."""
    labels = sorted({item.label for item in items if item.label is not None})
    return tuple(sorted(labels, key=int) if all(map(INTEGER.fullmatch, labels)) else labels)


def _there(file: Path, where: str) -> Path:
    if not file.is_file():
        raise ConfigurationError(f"{where}: {file} is not there", value=str(file))
    return file


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")  # Windows begins files with a mark of their encoding
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{where}: isn't UTF-8 at byte {error.start}, {data[error.start]:#04x}") from error


def _found(path: Path) -> Iterable[Item]:
    """Read pictures without metadata: captions are the lines of X.txt beside X.png, labels the folders' names. What is
    hidden isn't looked at: systems keep other things under the names of pictures there.
    """
    files = sorted(_files(path))
    _check_tables(path, files)
    unread = [file for file in files if file.suffix.lower() in UNREAD]
    if unread:
        detail = f"{path}: {len(unread)} pictures are of a kind that isn't read, {_relative(path, unread[0])} first; "
        detail += f"convert them to one of {', '.join(SUFFIXES)}"
        raise ConfigurationError(detail, field="data.folder", value=str(path))
    for file in files:
        if file.suffix.lower() in SUFFIXES:
            beside = file.with_suffix(".txt")
            lines = _text(beside.read_bytes(), str(beside)).splitlines() if beside.is_file() else []
            captions = tuple(line.strip() for line in lines if line.strip())
            yield Item(file, captions, file.parent.name if file.parent != path else None)


def _check_tables(path: Path, files: Iterable[Path]) -> None:
    """Refuse to lose the captions, labels and maps that a table elsewhere, or of another kind, says."""
    table = next((file for file in files if file.name in TABLES), None)
    if table is None:
        return
    if table.name == METADATA:
        detail = f"{path}: {_relative(path, table)} would not be read; name its own folder, folder: {table.parent}"
    else:
        detail = f"{path}: {_relative(path, table)} would not be read; write it as {METADATA}, a line of JSON a picture"
    raise ConfigurationError(detail, field="data.folder", value=str(path))


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files in a folder and below, through links as well, but for those that lead back up."""
    places = (*above, folder.resolve())
    for entry in folder.iterdir():
        if entry.name.startswith(".") or entry.name == "lost+found":  # a disk's own folder, which is root's alone
            continue
        if entry.is_file():
            yield entry
        elif entry.is_dir() and not any(place.is_relative_to(entry.resolve()) for place in places):
            yield from _files(entry, places)


def _hidden(path: Path, file: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(path).parts)


def _lacking(path: Path, what: str, items: Sequence[Item], total: int) -> ConfigurationError:
    first = _relative(path, items[0].file)
    detail = (
        f"{path}: {len(items)} of {total} pictures have no {what}, {first} first; {METADATA} or files beside say it"
    )
    return ConfigurationError(detail, field="data.folder", value=str(path))


def _fingerprint(path: Path, items: Iterable[Item]) -> str:
    """Tell data sets apart by what is in their files: times would make another one of every copy."""
    digest = hashlib.sha256()
    for item in items:
        files = [(os.path.relpath(file, path), _digest(file)) for file in (item.file, item.map) if file is not None]
        digest.update(json.dumps([files, item.captions, item.label, item.concept]).encode())
    return digest.hexdigest()[:16]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _hashed(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:2], "little") / HELD_OUT_STEPS


def _relative(path: Path, file: Path) -> str:
    return file.relative_to(path).as_posix()
