"""Which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from latentd.errors import CheckpointError
from models.checkpoints import native
from models.checkpoints.diffusers import load_diffusers
from models.checkpoints.loaded import Loaded


def load_checkpoint(path: Path) -> Loaded:
    """Read a checkpoint of any known layout. Raises CheckpointError if it is none."""
    if (path / native.INDEX).is_file():
        return native.load_native(path)
    if (path / "model_index.json").is_file():
        return load_diffusers(path)
    raise CheckpointError(f"{path}: neither {native.INDEX} nor model_index.json; not a checkpoint that latentd knows")
