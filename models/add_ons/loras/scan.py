"""The folder `Lora` of LATENTD_MODELS_DIR: every file in it, with a card written for those that have none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from contract.card import LORA_FOLDERS, InstalledLora, add_on_folders
from models.add_ons.loras.files import LoraFile, read_lora
from models.add_ons.shelf import ADAPTER, FAMILIES, Scanned, scan_addons
from models.checkpoints.layouts.detect import preferred

MOST_WORDS = 12
OUTPUT_NAME = "ss_output_name"  # that kohya's training gave a file, whatever it is called since


def scan_loras(models_dir: Path) -> list[Scanned[InstalledLora]]:
    """List the LoRAs below the models directory, in order of their folders.

    Never raises for a file: one that can't be used has a card that says why.
    """
    files = (
        (path, path.relative_to(models_dir).with_suffix("").as_posix().partition("/")[2].removesuffix(f"/{ADAPTER}"))
        for folder in add_on_folders(models_dir, LORA_FOLDERS)
        for path in preferred(folder.iterdir())
    )
    return scan_addons(files, InstalledLora, describe)


def describe(path: Path) -> dict[str, Any]:
    """Return the fields of a card that a file tells.

    Raises:
        CheckpointError: it can't be used.
    """
    file = read_lora(path, data=False)
    return {
        "description": file.metadata.get("modelspec.title", ""),
        "licence": file.metadata.get("modelspec.license") or "unknown",
        "family": family_of(file),
        "context_width": file.context_width,
        "rank": file.rank,
        "parts": parts_of(file),
        "trigger_words": trigger_words(file.metadata),
        "names": tuple(filter(None, (file.metadata.get(OUTPUT_NAME),))),
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
