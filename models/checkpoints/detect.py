"""Which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from core.errors import CheckpointError
from models.checkpoints import native
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.compvis.model import load_compvis
from models.checkpoints.compvis.single_file import SUFFIXES, read_single
from models.checkpoints.diffusers.reader import load_diffusers
from models.checkpoints.files.weights import understood


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any known layout.

    Raises:
        CheckpointError: it is none, naming what is wrong.
    """
    with understood(path):
        file = single_file(path)
        if file is not None:
            return load_compvis(read_single(file))
        if (path / native.INDEX).is_file():
            return native.load_native(path)
        if (path / "model_index.json").is_file():
            return load_diffusers(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    raise CheckpointError(
        f"{path}: has neither {native.INDEX} nor model_index.json nor exactly one of {', '.join(SUFFIXES)}"
    )


def single_file(path: Path) -> Path | None:
    """Return the file that `path` is, holds, or (a folder with nothing but a card) is named after; else None."""
    if path.is_file():
        return path
    if not path.is_dir() or any((path / name).is_file() for name in (native.INDEX, "model_index.json")):
        return None
    inside = [p for p in sorted(path.iterdir()) if p.suffix in SUFFIXES]
    beside = [file for suffix in SUFFIXES if (file := path.with_name(path.name + suffix)).is_file()]
    candidates = inside or beside
    return candidates[0] if len(candidates) == 1 else None
