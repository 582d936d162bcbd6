"""What was detected of a checkpoint whose card we wrote, beside the card: what differs from it, people have set."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from contract.card import CARD
from core.errors import CheckpointError
from models.checkpoints.files.weights import read_json

DETECTED = "detected.json"
Stamps: TypeAlias = dict[str, list[int]]  # size and time of change (ns) by a weight file's place, seen from the card's


@dataclass(frozen=True, slots=True)
class Detected:
    """The card's fields as they were detected, the weight files that they were read from, and what was assumed.

    `decided` are fields that no file tells and the network was asked for.
    """

    card: Mapping[str, Any]
    files: Stamps
    notes: tuple[str, ...] = ()
    decided: Mapping[str, Any] = field(default_factory=dict)


def read_detected(folder: Path) -> Detected | None:
    """Read the record of a card's folder; None where the card is somebody else's or the record is damaged."""
    try:
        value = read_json(folder / DETECTED) if (folder / DETECTED).is_file() else {}
    except CheckpointError:
        return None
    card, files, decided = (value.get(key) for key in ("card", "files", "decided"))
    if not isinstance(card, dict) or not isinstance(files, dict) or not isinstance(decided, dict):
        return None
    return Detected(card, files, tuple(map(str, value.get("notes") or ())), decided)


def save_detected(folder: Path, detected: Detected) -> None:
    """Write the record of a card's folder.

    Raises:
        OSError: the folder can't be written.
    """
    write_json(folder / DETECTED, asdict(detected))


def stamps(files: Sequence[Path], folder: Path) -> Stamps:
    """Tell the weight files of a card's folder by size and time of change, which a replaced one doesn't share."""
    return {os.path.relpath(file, folder): [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in files}


def is_of(record: Detected, files: Sequence[Path], folder: Path) -> bool:
    """Tell whether a record was made of these files as they are now."""
    return record.files == stamps(files, folder)


def user_set(folder: Path) -> dict[str, Any]:
    """Read the fields of a folder's card that aren't as we wrote them; all of them where we wrote none.

    Raises:
        CheckpointError: the card doesn't read.
    """
    if not (folder / CARD).is_file():
        return {}
    card, record = read_json(folder / CARD), read_detected(folder)
    found = record.card if record is not None else {}
    return {key: value for key, value in card.items() if key not in found or found[key] != value}


def as_set(folder: Path) -> dict[str, Any]:
    """Read what goes before a checkpoint's files: what people have set in its card, then what its network told.

    Raises:
        CheckpointError: the card doesn't read.
    """
    record = read_detected(folder)
    return {**(record.decided if record is not None else {}), **user_set(folder)}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file at once, whole: workers that start together both write."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
    unfinished.replace(path)
