"""The folder `Lora` of LATENTD_MODELS_DIR: every file in it, with a card written for those that have none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contract.card import ADDED_CARD, InstalledLora, lora_folders
from core.errors import CheckpointError
from models.checkpoints.card import id_of
from models.checkpoints.detect import preferred
from models.checkpoints.detected import write_json
from models.loras.files import LoraFile, read_lora
from models.loras.library import file_hash

FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}  # by the width of the context
MOST_WORDS = 12
BY_PEOPLE = ("id", "description", "licence", "trigger_words")  # of a card, kept when the file is replaced


@dataclass(frozen=True, slots=True)
class ScannedLora:
    """A LoRA of the directory: whether its card was written now, or why it can't be."""

    path: Path
    card: InstalledLora | None = None
    written: bool = False
    error: str | None = None


def scan_loras(models_dir: Path) -> list[ScannedLora]:
    """List the LoRAs below the models directory, in order of their folders.

    Never raises for a file: one that can't be used has a card that says why.
    """
    taken: set[str] = set()
    found = []
    for root in lora_folders(models_dir):
        for path in preferred(root.iterdir()):
            item = _scanned(path, models_dir, taken)
            found.append(item)
            taken |= {item.card.id} if item.card is not None else set()
    return found


def _scanned(path: Path, models_dir: Path, taken: Collection[str]) -> ScannedLora:
    place = path.with_name(path.stem + ADDED_CARD)
    try:
        stat, said = path.stat(), _read(place)
        stamp = {"file": path.name, "size": stat.st_size, "changed_ns": stat.st_mtime_ns}
        if said is not None and stamp.items() <= said.items():
            return ScannedLora(path, InstalledLora.model_validate(said))
        kept = {name: said[name] for name in BY_PEOPLE if said is not None and said.get(name)}
        name = path.relative_to(models_dir).with_suffix("").as_posix().partition("/")[2]
        card = {"id": id_of(name, taken), **describe(path), **kept, **stamp, "hash": file_hash(path)}
        checked = InstalledLora.model_validate(card)
        write_json(place, checked.model_dump(mode="json"))
        return ScannedLora(path, checked, written=True)
    except (CheckpointError, OSError, ValueError) as error:
        return ScannedLora(path, error=f"{place}: {' '.join(str(error).split())}")


def _read(card: Path) -> dict[str, Any] | None:
    if not card.is_file():
        return None
    value = json.loads(card.read_text("utf-8-sig"))
    return value if isinstance(value, dict) else None


def describe(path: Path) -> dict[str, Any]:
    """Return the fields of a card that a file tells; of one that can't be used, why."""
    try:
        file = read_lora(path, data=False)
    except CheckpointError as error:
        return {"unserved": error.detail.removeprefix(f"{path}: ")}
    return {
        "description": file.metadata.get("modelspec.title", ""),
        "licence": file.metadata.get("modelspec.license") or "unknown",
        "family": family_of(file),
        "context_width": file.context_width,
        "rank": file.rank,
        "parts": parts_of(file),
        "trigger_words": trigger_words(file.metadata),
    }


def family_of(file: LoraFile) -> str | None:
    """Tell what a LoRA was trained on, by the width of its context, else by names that only SDXL's have."""
    if file.context_width in FAMILIES:
        return FAMILIES[file.context_width]
    return "sdxl" if "te2" in file.networks else None


def parts_of(file: LoraFile) -> tuple[Literal["unet", "text"], ...]:
    """Say which networks a LoRA changes."""
    unet: tuple[Literal["unet", "text"], ...] = ("unet",) if "unet" in file.networks else ()
    return (*unet, "text") if file.networks - {"unet"} else unet


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Read what calls for a LoRA: its author's phrase, else the most frequent tags of kohya's training."""
    if phrase := metadata.get("modelspec.trigger_phrase"):
        return tuple(word.strip() for word in phrase.split(",") if word.strip())[:MOST_WORDS]
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except ValueError:
        return ()
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        if isinstance(tags, dict):
            counts.update({str(tag).strip(): n for tag, n in tags.items() if isinstance(n, int)})
    return tuple(tag for tag, _ in counts.most_common(MOST_WORDS) if tag)
