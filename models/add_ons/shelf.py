"""What is added to models from files of its own, LoRAs, ControlNets and embeddings: carded, found, kept for later."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from contract.card import ADD_ON_CARD, InstalledControlNet, InstalledEmbedding, InstalledLora
from core.errors import CheckpointError
from models.checkpoints.card import files_hash, id_of
from models.checkpoints.layouts.detected import write_json

BY_PEOPLE = ("id", "description", "licence", "trigger_words")  # of a card, kept when the file is replaced
ADAPTER, ADAPTER_CONFIG = "adapter_model", "adapter_config.json"  # PEFT's weights and what it says of them beside
FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # by the width of the context

Card = TypeVar("Card", InstalledLora, InstalledControlNet, InstalledEmbedding)
A = TypeVar("A", InstalledLora, InstalledControlNet)
T = TypeVar("T")


class Named(Protocol):
    """An add-on as a request names it."""

    @property
    def id(self) -> str: ...
    @property
    def hash(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Found(Generic[Card]):
    """An add-on on the disk."""

    card: Card
    path: Path


@dataclass(frozen=True, slots=True)
class Scanned(Generic[Card]):
    """An add-on of the directory: whether its card was written now, or why it can't be."""

    path: Path
    card: Card | None = None
    written: bool = False
    error: str | None = None


def scan_addons(
    files: Iterable[tuple[Path, str]], form: type[A], describe: Callable[[Path], Mapping[str, Any]]
) -> list[Scanned[A]]:
    """Make a card of `form` beside each file that has none or was replaced; files come with the names of their ids.

    Never raises for a file: one that can't be used has a card that says why.
    """
    taken: set[str] = set()
    found = []
    for path, name in files:
        item = scanned(path, {"id": id_of(name, taken)}, form, describe)
        found.append(item)
        taken |= {item.card.id} if item.card is not None else set()
    return found


def scanned(
    path: Path, called: Mapping[str, str], form: type[Card], describe: Callable[[Path], Mapping[str, Any]]
) -> Scanned[Card]:
    """Make a card of `form` beside one file; `called` is the field that requests name it by."""
    place = path.with_name(path.stem + ADD_ON_CARD)
    try:
        said, (size, changed_ns) = _read(place), _stamp(path)
        stamp = {"file": path.name, "size": size, "changed_ns": changed_ns}
        if said is not None and stamp.items() <= said.items():
            return Scanned(path, form.model_validate(said))
        kept = {key: said[key] for key in BY_PEOPLE if said is not None and said.get(key)}
        card = {**called, **_described(path, describe), **kept, **stamp, "hash": file_hash(path)}
        checked = form.model_validate(card)
        write_json(place, checked.model_dump(mode="json"))
        return Scanned(path, checked, written=True)
    except (CheckpointError, OSError, ValueError) as error:
        return Scanned(path, error=f"{place}: {' '.join(str(error).split())}")


def _described(path: Path, describe: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the fields of a card that a file tells; of one that can't be used, why."""
    try:
        return describe(path)
    except CheckpointError as error:
        return {"unserved": error.detail.removeprefix(f"{path}: ")}


def _read(card: Path) -> dict[str, Any] | None:
    if not card.is_file():
        return None
    value = json.loads(card.read_text("utf-8-sig"))
    return value if isinstance(value, dict) else None


class Kept:
    """Loaded add-ons, the least recently used dropped over a budget of bytes; what running jobs hold is beside it."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._held: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        return sum(size for _, size in self._kept.values())

    def get(self, key: Hashable, load: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return what is kept, or held by a job still, under `key`; else load it."""
        held: T | None = self._held.get(key)
        value = load() if held is None else held
        self._held[key] = value
        if key not in self._kept and (taken := size(value)) <= self._budget:  # else all others would make room in vain
            self._kept[key] = value, taken
        if key in self._kept:
            self._kept.move_to_end(key)
        while self.bytes > self._budget and self._kept:
            self._kept.popitem(last=False)
        return value


def path_of(found: Mapping[str, Found[Card]], what: str, field: str, name: str, then: str) -> Path:
    """Find the file of an add-on that a request names, and that had the hash `then`.

    Raises:
        CheckpointError: it isn't there, or was replaced since the request was accepted, by its name.
    """
    there = found.get(name)
    if there is None:
        raise CheckpointError(f"{what} {name!r} isn't here", field=field, value=name)
    if (now := current_hash(there)) != then:
        detail = f"{what} {name!r} was replaced since the job was accepted: {then[:10]} then, {now[:10]} now"
        raise CheckpointError(detail, field=field, value=name, bound=then)
    return there.path


def current_hash(found: Found[Card]) -> str:
    """Return a file's hash: the card's, unless size or time of change say that it was replaced since.

    Raises:
        CheckpointError: it can't be read.
    """
    try:
        if _stamp(found.path) == (found.card.size, found.card.changed_ns):
            return found.card.hash
        return file_hash(found.path)
    except OSError as error:
        raise CheckpointError(f"{found.path}: {error}") from error


def adapter_config(path: Path) -> Path | None:
    """Return the file beside PEFT's weights that says how they are scaled; None of others, and where it isn't there."""
    config = path.with_name(ADAPTER_CONFIG)
    return config if path.stem == ADAPTER and config.is_file() else None


def file_hash(path: Path) -> str:
    """Hash (SHA-256) a file, and what decides with it what it draws."""
    return files_hash(_files(path))


def _files(path: Path) -> list[Path]:
    config = adapter_config(path)
    return [path] if config is None else [path, config]


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file; of two their sums, which a change of either changes."""
    stats = [file.stat() for file in _files(path)]
    return sum(stat.st_size for stat in stats), sum(stat.st_mtime_ns for stat in stats)
