"""The model card that stands beside a checkpoint, as far as the weights determine it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from models.checkpoints.files import read_json

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
BLOCK = 1 << 20  # bytes read at a time


def checkpoint_id(path: Path) -> str:
    """The card's id, or else the name of the folder or file."""
    card = path / "card.json"
    if card.is_file():
        return str(read_json(card).get("id", path.name))
    return path.stem if path.is_file() else path.name


def weights_hash(path: Path) -> str:
    """SHA-256 over the weight files of a folder in order of their relative names, or over a single file."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in WEIGHT_SUFFIXES]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda p: p.relative_to(path).as_posix()):
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()
