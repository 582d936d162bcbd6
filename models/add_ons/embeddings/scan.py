"""The folder `embeddings` of LATENTD_MODELS_DIR: every file in it, with a card written for those that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contract.card import EMBEDDING_FOLDERS, InstalledEmbedding, add_on_folders
from models.add_ons.embeddings.files import read_embedding
from models.add_ons.shelf import Scanned, scanned
from models.checkpoints.layouts.detect import preferred

FAMILIES = {(768,): "sd1", (1024,): "sd2", (768, 1280): "sdxl"}  # by the widths of the towers


def scan_embeddings(models_dir: Path) -> list[Scanned[InstalledEmbedding]]:
    """List the embeddings below the models directory, in order of their folders.

    Never raises for a file: one that can't be used has a card that says why.
    """
    found: dict[str, Scanned[InstalledEmbedding]] = {}
    others: list[Scanned[InstalledEmbedding]] = []
    for path in (path for root in add_on_folders(models_dir, EMBEDDING_FOLDERS) for path in preferred(root.iterdir())):
        if path.stem.lower() in found:
            error = f"{path}: another embedding has its name, whatever the case; rename one"
            others.append(Scanned(path, error=error))
        else:
            found[path.stem.lower()] = scanned(path, {"name": path.stem}, InstalledEmbedding, describe)
    return [*found.values(), *others]


def describe(path: Path) -> dict[str, Any]:
    """Return the fields of a card that a file tells.

    Raises:
        CheckpointError: it can't be used.
    """
    file = read_embedding(path, data=False)
    return {
        "description": file.metadata.get("modelspec.title", ""),
        "licence": file.metadata.get("modelspec.license") or "unknown",
        "family": FAMILIES.get(file.widths),
        "widths": file.widths,
        "vectors": file.vectors,
    }
