"""The folder `ControlNet` of LATENTD_MODELS_DIR: every file and diffusers folder in it, with a card for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.card import CONTROLNET_FOLDERS, InstalledControlNet, add_on_folders
from core.errors import CheckpointError
from models.add_ons.controls.files import ControlFile, is_folder, read_control
from models.add_ons.shelf import FAMILIES, Scanned, scan_addons
from models.checkpoints.files.weights import component_files
from models.checkpoints.layouts.detect import preferred


def scan_controls(models_dir: Path) -> list[Scanned[InstalledControlNet]]:
    """List the ControlNets below the models directory, in order of their folders.

    Never raises for a file: one that can't be used has a card that says why.
    """
    return scan_addons(_files(models_dir), InstalledControlNet, describe)


def _files(models_dir: Path) -> Iterator[tuple[Path, str]]:
    for folder in add_on_folders(models_dir, CONTROLNET_FOLDERS):
        weights = preferred(folder.iterdir())
        if _is_folder(folder, weights):
            yield component_files(folder)[0], _below(folder, models_dir)
        else:
            yield from ((path, _below(path.with_suffix(""), models_dir)) for path in weights)


def _is_folder(folder: Path, weights: list[Path]) -> bool:
    """Tell diffusers' folders; one without weights holds nothing, and one whose config doesn't read is its files'."""
    try:
        return bool(weights) and is_folder(folder) and component_files(folder) != []
    except CheckpointError:
        return False


def _below(path: Path, models_dir: Path) -> str:
    return path.relative_to(models_dir).as_posix().partition("/")[2]


def describe(path: Path) -> dict[str, Any]:
    """Return the fields of a card that a file tells.

    Raises:
        CheckpointError: it can't be used.
    """
    file = read_control(path, data=False)
    return {"family": family_of(file), "context_width": file.context_width}


def family_of(file: ControlFile) -> str | None:
    """Tell what a ControlNet was trained on, by the width of its context, else by what SDXL alone reads."""
    if file.context_width in FAMILIES:
        return FAMILIES[file.context_width]
    return None if file.added_dim is None else "sdxl"
