"""A checkpoint of any layout, read into a pipeline that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoints.build import State, build
from models.checkpoints.card import card_folder, checkpoint_id, load_as_set, predicting, settle
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.files.weights import understood
from models.checkpoints.layouts.compvis.prediction import tell_prediction
from models.inputs import Inputs
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import Conditioner, ConditionerModule, TextConfig
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from models.networks.widening import compute_in_float32
from models.pipeline.denoiser import Denoiser
from models.pipeline.pipeline import LatentDiffusion
from models.schedule import NoiseSchedule, Prediction


def load(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LatentDiffusion:
    """Make a checkpoint of any known layout ready to run.

    Its id is the card's, or else the name of the folder or file.

    Raises:
        CheckpointError: naming the file, key or shape that doesn't fit.
        torch.OutOfMemoryError: the device lacks memory for it.
    """
    checkpoint, folder = load_as_set(path), card_folder(path)
    with understood(path):
        model = assemble(checkpoint, checkpoint_id(path), device, dtype)
    if not checkpoint.prediction_assumed:
        return model
    told = decided(checkpoint, model)
    settle(folder, told)
    return replace(model, config=told.config, schedule=NoiseSchedule(told.config.schedule))


def load_decided(path: Path) -> Checkpoint:
    """Read a checkpoint as `load` does, but for the modules; where nothing tells eps from v, its network is asked.

    Raises:
        CheckpointError: as `load` does.
    """
    checkpoint = load_as_set(path)
    if not checkpoint.prediction_assumed:
        return checkpoint
    with understood(path):
        model = assemble(replace(checkpoint, states=dict(checkpoint.states)), path.stem)  # takes the parts out
    return decided(checkpoint, model)


def decided(checkpoint: Checkpoint, model: LatentDiffusion) -> Checkpoint:
    """Say of a checkpoint whose files don't tell it what it predicts, by asking its network."""
    told = predicting(checkpoint, asked(model))
    by = f"prediction_type: {told.config.schedule.prediction}, by a call of the network, as the file doesn't say it"
    return replace(told, assumptions=(*told.assumptions, by))


@torch.inference_mode()
def asked(model: LatentDiffusion) -> Prediction:
    """Ask a network at the last timestep, with no condition, whether it predicts eps or v."""
    config = model.config
    side = 2 ** (len(config.unet.channels) + 1)
    timesteps = torch.tensor([config.schedule.timesteps - 1])
    context = None if config.unet.context_dim is None else torch.zeros(1, 1, config.unet.context_dim)
    extra = config.unet.in_channels - config.unet.out_channels
    added = None if config.unet.added_dim is None else torch.zeros(1, config.unet.added_dim)
    concat = torch.zeros(1, extra, side, side) if extra else None
    inputs = Inputs(context=context, concat=concat, added=added)
    return tell_prediction(lambda z_t: model.predict(z_t, timesteps, inputs), config.unet.out_channels, side)


def assemble(
    checkpoint: Checkpoint, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusion:
    """Make modules around weights already read, which are taken out of `checkpoint` part by part.

    Raises:
        CheckpointError: as `load` does.
    """
    config, states, origin = checkpoint.config, checkpoint.states, checkpoint.origin
    conditioner: ConditionerModule | None = None
    if config.conditioner is not None:
        conditioner = _conditioner(config.conditioner, states.pop("conditioner"), device, dtype, origin)
    unet = build(lambda: UNet(config.unet), states.pop("unet"), "unet", device, dtype, origin)
    precision, make = config.first_stage_dtype(dtype), lambda: Autoencoder(config.first_stage)
    return LatentDiffusion(
        id=name,
        config=config,
        schedule=NoiseSchedule(config.schedule),
        denoiser=Denoiser(unet, torch.device(device), dtype),
        first_stage=build(make, states.pop("first_stage"), "first stage", device, precision, origin),
        conditioner=conditioner,
        tokenizers=checkpoint.tokenizers,
    )


def conditioner_dtype(config: Conditioner, dtype: torch.dtype) -> torch.dtype | None:
    """Return the precision of τθ's weights in a model of `dtype`; None: that of their file.

    In a model of half precision a text encoder keeps the precision of its file and computes in float32: a rounded
    context moves the last latent more than all rounding in the UNet does (docs/performance.md).
    """
    return None if isinstance(config, TextConfig) and dtype != torch.float32 else dtype


def _conditioner(
    config: Conditioner, state: State, device: str, dtype: torch.dtype, origin: Mapping[int, str]
) -> ConditionerModule:
    kept = conditioner_dtype(config, dtype)
    module = build(lambda: make_conditioner(config), state, "conditioner", device, kept, origin)
    if kept is None:
        compute_in_float32(module)
    return module
