"""First stages in files of their own, which take a model's place: beside it, or in the folder VAE by its card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from contract.card import CARD, DEPTH, is_closed
from core.errors import CheckpointError
from models.checkpoints.build import State
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.files.rename import DIFFUSERS, below, renamed
from models.checkpoints.files.weights import (
    companion,
    component_files,
    is_weights,
    read_json,
    read_weights,
    understood,
)
from models.checkpoints.layouts import taesd
from models.checkpoints.layouts.compvis.first_stage import read_first_stage
from models.checkpoints.layouts.compvis.model import FIRST_STAGE
from models.checkpoints.layouts.compvis.single_file import read_single
from models.checkpoints.layouts.diffusers.config import autoencoder_config
from models.checkpoints.layouts.diffusers.first_stage import TELLING, read_without_config
from models.networks.autoencoder import AutoencoderConfig

MARK = ".vae"  # ends the stem of a file that belongs to the model of that name
COMPANIONS = {MARK: "a VAE", taesd.MARK: "a decoder of previews"}
FIELD = "vae"  # of a model's card
FOLDERS = ("VAE", "vae")


def is_companion(file: Path) -> bool:
    """Tell `NAME.vae.safetensors`, `NAME.taesd.safetensors` and their like, which are no models by themselves."""
    return file.stem.lower().endswith(tuple(COMPANIONS))


def vae_of(card_folder: Path, file: Path | None) -> Path | None:
    """Find what replaces the first stage of a model with this card: what that names, else what lies beside the file.

    Raises:
        CheckpointError: the card names one that isn't there, or doesn't read.
    """
    card = card_folder / CARD
    name = read_json(card).get(FIELD) if card.is_file() else None
    if name is not None:
        return _named(card, str(name))
    return None if file is None else companion(file.with_suffix(""), MARK)


def _named(card: Path, name: str) -> Path:
    for folder in _places(card.parent) if Path(name).name == name and not name.startswith(".") else ():
        if is_weights(folder / name) or (folder / name / "config.json").is_file():
            return folder / name
    detail = f"{card}: {FIELD} {name!r} is neither beside the model nor in a folder VAE above it"
    raise CheckpointError(detail, field=FIELD, value=name)


def _places(folder: Path) -> Iterator[Path]:
    """Yield where a card's VAE may lie: its folder, the one above, then the folders VAE up to the models directory."""
    yield from (folder, folder.parent)
    reserved = (above / name for above in list(folder.parents)[: DEPTH + 1] for name in FOLDERS)
    yield from (place for place in reserved if not is_closed(place))


def vae_files(path: Path) -> list[Path]:
    """List the weight files of a first stage, a file or a folder as diffusers writes it.

    Raises:
        CheckpointError: the folder holds none.
    """
    return [path] if path.is_file() else component_files(path)


def read_vae(path: Path, *, data: bool = True) -> tuple[AutoencoderConfig, State]:
    """Read config and weights under our names; without `data` large tensors are shapes alone.

    Raises:
        CheckpointError: naming the file and the key that is missing.
    """
    if path.is_dir():
        return autoencoder_config(read_json(path / "config.json")), renamed(read_weights(path, data=data), DIFFUSERS)
    return first_stage_of(path, read_single(path, data=data).state)


def first_stage_of(path: Path, state: State) -> tuple[AutoencoderConfig, State]:
    """Read the first stage out of a file's tensors, of either layout, alone or embedded in a model.

    Raises:
        CheckpointError: naming the file and the key that is missing.
    """
    state = below(state, FIRST_STAGE) or state
    try:
        with understood(path):
            return read_without_config(state) if TELLING in state else read_first_stage(state)
    except CheckpointError as error:
        detail = error.detail if error.detail.startswith(str(path)) else f"{path}: {error.detail}"
        raise CheckpointError(detail, field=error.field) from error


def replaced(checkpoint: Checkpoint, path: Path, vae: tuple[AutoencoderConfig, State]) -> Checkpoint:
    """Give a checkpoint the first stage that was read from `path`, and say so.

    Raises:
        CheckpointError: its latents have another shape than the model's own.
    """
    own, (config, state) = checkpoint.config.first_stage, vae
    if (config.factor, config.embed_dim) != (own.factor, own.embed_dim):
        shapes = [f"f = {each.factor} with {each.embed_dim} channels" for each in (config, own)]
        raise CheckpointError(f"{path}: its latents have {shapes[0]}, the model's {shapes[1]}", field=FIELD)
    return replace(
        checkpoint,
        config=replace(checkpoint.config, first_stage=config),
        states=checkpoint.states | {"first_stage": state},
        assumptions=(*checkpoint.assumptions, f"its first stage is that of {path.name}"),
    )
