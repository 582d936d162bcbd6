"""Which reader a path needs, and which files of it are read."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from core.errors import CheckpointError
from models.checkpoints.checkpoint import Checkpoint, check
from models.checkpoints.files.weights import SUFFIXES, component_files, is_weights, understood
from models.checkpoints.layouts import native
from models.checkpoints.layouts.compvis.model import FIRST_STAGE, load_compvis
from models.checkpoints.layouts.compvis.single_file import read_single
from models.checkpoints.layouts.detected import read_detected
from models.checkpoints.layouts.diffusers.reader import load_diffusers
from models.checkpoints.layouts.vae import is_companion, read_vae, replaced, vae_files, vae_of

INDEX = "model_index.json"
COMPONENTS = ("unet", "vae", "vqvae", "text_encoder", "text_encoder_2", "bert")  # of a diffusers folder that are read


def load_checkpoint(path: Path, *, data: bool = True) -> Checkpoint:
    """Read a checkpoint of any known layout; without `data` large weights are shapes alone, enough to check them.

    Raises:
        CheckpointError: it is none, naming what is wrong.
    """
    with understood(path):
        file = single_file(path)
        if file is not None or is_indexed(path):
            return checked(_read(path, file, data), file or path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    raise CheckpointError(f"{path}: has neither {native.INDEX} nor {INDEX} nor exactly one of {', '.join(SUFFIXES)}")


def _read(path: Path, file: Path | None, data: bool) -> Checkpoint:
    """Read a file or a folder that says what it holds, with the first stage that takes its own's place."""
    place = vae_of(path.with_suffix("") if path.is_file() else path, file)
    vae = None if place is None else read_vae(place, data=data)
    if file is not None:
        single = read_single(file, data=data)
        whole = any(key.startswith(FIRST_STAGE) for key in single.state)
        checkpoint = load_compvis(single, lacking=None if whole else vae)
    elif native.is_native(path):
        checkpoint = native.load_native(path, data=data)
    else:
        checkpoint = load_diffusers(path, data=data)
    return checkpoint if place is None or vae is None else replaced(checkpoint, place, vae)


def checked(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Return a checkpoint that can draw.

    Raises:
        CheckpointError: naming the file and the parts that don't fit one another.
    """
    try:
        return check(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.detail}", field=error.field) from error


def is_indexed(path: Path) -> bool:
    """Tell folders that say what they hold: ours and those of diffusers."""
    return native.is_native(path) or (path / INDEX).is_file()


def single_file(path: Path) -> Path | None:
    """Return the file that `path` is, holds, or (a folder with nothing but a card) is named after; else None."""
    if path.is_file():
        return path
    if not path.is_dir() or is_indexed(path):
        return None
    files = preferred(path.iterdir()) or preferred(path.parent.glob(f"{glob.escape(path.name)}.*"), path.name)
    if len(files) > 1 and (record := read_detected(path)) is not None:
        files = [file for file in files if file.name in record.files]
    return files[0] if len(files) == 1 else None


def preferred(entries: Iterable[Path], stem: str | None = None) -> list[Path]:
    """List weight files but models' VAEs, of those with one stem the safetensors before the pickle."""
    order = {suffix: place for place, suffix in enumerate(SUFFIXES)}
    files = [entry for entry in entries if is_weights(entry) and stem in (None, entry.stem) and not is_companion(entry)]
    best: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (file.stem, order[file.suffix.lower()])):
        best.setdefault(file.stem, file)
    return list(best.values())


def loaded_files(path: Path) -> list[Path]:
    """List the weight files that loading `path` reads, without those that lie beside them.

    Raises:
        CheckpointError: a component has none.
    """
    file = single_file(path)
    place = vae_of(path.with_suffix("") if path.is_file() else path, file)
    return [*_own_files(path, file), *(vae_files(place) if place is not None else ())]


def _own_files(path: Path, file: Path | None) -> list[Path]:
    if file is not None:
        return [file]
    if native.is_native(path):
        return [file for part in native.PARTS if (file := path / f"{part}.safetensors").is_file()]
    return [file for part in COMPONENTS if (path / part).is_dir() for file in component_files(path / part)]
