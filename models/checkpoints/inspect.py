"""What a checkpoint is, for people: format, parts, sizes, and what its files leave open."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from models.checkpoints.build import State
from models.checkpoints.card import NO_TOKENIZER, describe, is_mute, notes_of, tasks_of
from models.checkpoints.checkpoint import Checkpoint, fitted
from models.checkpoints.files.rename import below
from models.checkpoints.files.weights import holds_safetensors, understood
from models.checkpoints.layouts import native
from models.checkpoints.layouts.compvis.model import FIRST_STAGE, UNET
from models.checkpoints.layouts.compvis.single_file import SingleFile, read_single
from models.checkpoints.layouts.detect import load_checkpoint, single_file
from models.checkpoints.layouts.first_stage import holds_first_stage, load_first_stage
from models.checkpoints.layouts.vae import first_stage_of
from models.networks.autoencoder import AutoencoderConfig


@dataclass(frozen=True, slots=True)
class Part:
    """A network of a checkpoint: its number of parameters and the precision of its weights."""

    name: str
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What `latentd models inspect` prints."""

    path: Path
    format: str
    description: str
    tasks: tuple[str, ...]
    parts: tuple[Part, ...]
    facts: dict[str, str]
    notes: tuple[str, ...]  # what was assumed, and which card field or file settles it


def inspect(path: Path) -> Report:
    """Read what a checkpoint holds and check that every key fits; of large weights shapes and sizes alone.

    Raises:
        CheckpointError: naming what doesn't.
    """
    with understood(path):
        return _inspect(path)


def _inspect(path: Path) -> Report:
    if holds_first_stage(path):
        first = load_first_stage(path, data=False)
        return _alone(path, "latentd first stage", first.config, first.state)
    file = single_file(path)
    if file is None:
        checkpoint = load_checkpoint(path, data=False)
    else:
        single = read_single(file, data=False)
        if not below(single.state, UNET) and (report := _first_stage(single)) is not None:
            return report
        checkpoint = load_checkpoint(path, data=False)
    config, first_stage = checkpoint.config, checkpoint.config.first_stage
    facts = {
        "latent": f"{first_stage.embed_dim} channels, f = {first_stage.factor}, scale factor {config.scale_factor:g}",
        "prediction": config.schedule.prediction,
        "schedule": f"{config.schedule.beta_schedule} {config.schedule.beta_start:g} … {config.schedule.beta_end:g}",
        "channels": f"{config.unet.in_channels} in, {config.unet.out_channels} out, widths {config.unet.channels}",
        "tokens": _tokens(checkpoint),
    }
    parts = tuple(_part(name, state) for name, state in fitted(checkpoint).items())
    return Report(path, _format(path, file), describe(config), tasks_of(config), parts, facts, _notes(checkpoint))


def _tokens(checkpoint: Checkpoint) -> str:
    if (layout := checkpoint.config.layout) is not None:
        return f"{layout.positions} a layout, below {layout.vocab_size}"
    return f"{checkpoint.tokenizers[0].window} a prompt" if checkpoint.tokenizers else "no tokenizer"


def _first_stage(file: SingleFile) -> Report | None:
    """Report a stand-alone autoencoder."""
    if "encoder.conv_in.weight" not in (below(file.state, FIRST_STAGE) or file.state):
        return None
    return _alone(file.path, _format(file.path, file.path), *first_stage_of(file.path, file.state))


def _alone(path: Path, form: str, config: AutoencoderConfig, names: State) -> Report:
    kind = "KL" if config.kind == "kl" else f"VQ, {config.codebook} codes"
    text = f"First stage alone: {kind}, f={config.factor}, {config.embed_dim} channels."
    notes = (
        "a first stage alone draws no pictures; as NAME.vae.safetensors beside NAME.safetensors, or in the folder VAE "
        "and named in a card as `vae`, it takes the place of that model's own",
    )
    return Report(path, form, text, (), (_part("first_stage", names),), {}, notes)


def _part(name: str, state: State) -> Part:
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in state.values()})
    return Part(name, sum(math.prod(value.shape) for value in state.values()), tuple(dtypes))


def _format(path: Path, file: Path | None) -> str:
    if file is not None:
        return "single file, safetensors" if holds_safetensors(file) else "single file, torch pickle"
    return "latentd folder" if native.is_native(path) else "diffusers folder"


def _notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    return (*notes_of(checkpoint), *([NO_TOKENIZER] if is_mute(checkpoint) else []))
