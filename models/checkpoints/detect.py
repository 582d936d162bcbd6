"""Which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from latentd.errors import CheckpointError
from models.checkpoints import native
from models.checkpoints.compvis import load_compvis
from models.checkpoints.diffusers import load_diffusers
from models.checkpoints.loaded import Loaded
from models.checkpoints.single import SUFFIXES, read_single


def load_checkpoint(path: Path) -> Loaded:
    """Read a checkpoint of any known layout. Raises CheckpointError if it is none."""
    if path.is_file():
        return load_compvis(read_single(path))
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    if (path / native.INDEX).is_file():
        return native.load_native(path)
    if (path / "model_index.json").is_file():
        return load_diffusers(path)
    files = [p for p in sorted(path.iterdir()) if p.suffix in SUFFIXES]
    if len(files) == 1:
        return load_compvis(read_single(files[0]))
    raise CheckpointError(
        f"{path}: has neither {native.INDEX} nor model_index.json nor exactly one of {', '.join(SUFFIXES)}"
    )
