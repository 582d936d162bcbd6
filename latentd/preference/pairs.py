"""The pairs of a study: pictures of the same name in two folders, what both were made from, and their prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from core.errors import ConfigurationError
from models.training.data.folder import Item, read_folder

FORMATS = ("PNG", "JPEG", "WEBP")  # what browsers and `core.pictures` read alike
OURS = "latentd"  # the text of our PNGs that has the request


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures of one name, by their paths; `given` is what both were made from, where the study shows it."""

    name: str
    a: Path
    b: Path
    given: Path | None
    prompt: str


def read_pairs(a: Path, b: Path, given: Path | None = None) -> tuple[Pair, ...]:
    """Pair the pictures that every folder has; endings may differ, and none is decoded yet.

    Raises:
        ConfigurationError: a folder has no pictures, two of one name or one that is none; there is no pair.
    """
    folders = [_by_name(folder) for folder in (a, b, *([given] if given else []))]
    names = sorted(set.intersection(*(set(items) for items in folders)))
    if not names:
        told = " and ".join(
            f"{folder} has {next(iter(items))}, …" for folder, items in zip((a, b), folders, strict=False)
        )
        raise ConfigurationError(f"no picture has the same name in every folder: {told}", field="A_DIR", value=str(a))
    return tuple(_pair(name, *(items[name] for items in folders)) for name in names)


def _by_name(folder: Path) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in read_folder(folder).items:
        name = item.file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ConfigurationError(f"{folder}: {name} is there twice: {found[name].file.name}, {item.file.name}")
        if not name.isprintable():  # bytes that are no UTF-8 among them, which no line of answers can have
            raise ConfigurationError(f"{folder}: {name!r} is no name that can be printed", field="A_DIR")
        found[name] = item
    return found


def _pair(name: str, a: Item, b: Item, given: Item | None = None) -> Pair:
    items = [item for item in (a, b, given) if item is not None]
    texts = [_text(item.file) for item in items]  # each is opened, if only to see that it is a picture
    return Pair(name, a.file, b.file, given.file if given else None, _first([*map(_caption, items), *texts]))


def _first(prompts: Iterable[str]) -> str:
    return next((prompt for prompt in prompts if prompt), "")


def _caption(item: Item) -> str:
    return item.captions[0] if item.captions else ""


def _text(file: Path) -> str:
    """Read the prompt that a PNG of ours carries; empty where it carries none."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            text = picture.info.get(OURS, "")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigurationError(f"{file}: no PNG, JPEG or WebP", field="A_DIR", value=str(file)) from error
    try:
        return str(json.loads(text)["request"]["prompt"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
