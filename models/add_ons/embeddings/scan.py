"""The folder `embeddings` of LATENTD_MODELS_DIR: every file in it, with a card written for those that have none."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.card import ADD_ON_CARD, EMBEDDING_FOLDERS, InstalledEmbedding, add_on_folders
from core.errors import CheckpointError
from models.add_ons.embeddings.files import read_embedding
from models.add_ons.shelf import file_hash
from models.checkpoints.layouts.detect import preferred
from models.checkpoints.layouts.detected import write_json

FAMILIES = {(768,): "sd1", (1024,): "sd2", (768, 1280): "sdxl"}  # by the widths of the towers
BY_PEOPLE = ("description", "licence")  # of a card, kept when the file is replaced


@dataclass(frozen=True, slots=True)
class ScannedEmbedding:
    """An embedding of the directory: whether its card was written now, or why it can't be."""

    path: Path
    card: InstalledEmbedding | None = None
    written: bool = False
    error: str | None = None


def scan_embeddings(models_dir: Path) -> list[ScannedEmbedding]:
    """List the embeddings below the models directory, in order of their folders.

    Never raises for a file: one that can't be used has a card that says why.
    """
    taken: set[str] = set()
    found = []
    for root in add_on_folders(models_dir, EMBEDDING_FOLDERS):
        for path in preferred(root.iterdir()):
            item = _scanned(path, taken)
            found.append(item)
            taken.add(path.stem.lower())
    return found


def _scanned(path: Path, taken: Collection[str]) -> ScannedEmbedding:
    place = path.with_name(path.stem + ADD_ON_CARD)
    if path.stem.lower() in taken:
        return ScannedEmbedding(path, error=f"{path}: another embedding has its name, whatever the case; rename one")
    try:
        stat, said = path.stat(), _read(place)
        stamp = {"file": path.name, "size": stat.st_size, "changed_ns": stat.st_mtime_ns}
        if said is not None and stamp.items() <= said.items():
            return ScannedEmbedding(path, InstalledEmbedding.model_validate(said))
        kept = {name: said[name] for name in BY_PEOPLE if said is not None and said.get(name)}
        card = {"name": path.stem, **describe(path), **kept, **stamp, "hash": file_hash(path)}
        checked = InstalledEmbedding.model_validate(card)
        write_json(place, checked.model_dump(mode="json"))
        return ScannedEmbedding(path, checked, written=True)
    except (CheckpointError, OSError, ValueError) as error:
        return ScannedEmbedding(path, error=f"{place}: {' '.join(str(error).split())}")


def _read(card: Path) -> dict[str, Any] | None:
    if not card.is_file():
        return None
    value = json.loads(card.read_text("utf-8-sig"))
    return value if isinstance(value, dict) else None


def describe(path: Path) -> dict[str, Any]:
    """Return the fields of a card that a file tells; of one that can't be used, why."""
    try:
        file = read_embedding(path, data=False)
    except CheckpointError as error:
        return {"unserved": error.detail.removeprefix(f"{path}: ")}
    return {
        "description": file.metadata.get("modelspec.title", ""),
        "licence": file.metadata.get("modelspec.license") or "unknown",
        "family": FAMILIES.get(file.widths),
        "widths": file.widths,
        "vectors": file.vectors,
    }
