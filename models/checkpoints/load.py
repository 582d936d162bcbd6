"""A checkpoint of any layout, read into a pipeline that runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoints.build import build
from models.checkpoints.card import CARD, checkpoint_id
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.detect import load_checkpoint
from models.checkpoints.files.weights import read_json, understood
from models.denoiser import Denoiser
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import ConditionerModule
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from models.pipeline import LatentDiffusion
from models.schedule import NoiseSchedule


def load(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LatentDiffusion:
    """Make a checkpoint of any known layout ready to run.

    Its id is the card's, or else the name of the folder or file.

    Raises:
        CheckpointError: naming the file, key or shape that doesn't fit.
    """
    checkpoint, card = load_checkpoint(path), path / CARD
    if checkpoint.prediction_assumed and card.is_file() and "prediction_type" in (said := read_json(card)):
        schedule = replace(checkpoint.config.schedule, prediction=said["prediction_type"])
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, schedule=schedule))
    with understood(path):
        return assemble(checkpoint, checkpoint_id(path), device, dtype)


def assemble(
    checkpoint: Checkpoint, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LatentDiffusion:
    """Make modules around weights already read.

    Raises:
        CheckpointError: as `load` does.
    """
    config, states = checkpoint.config, checkpoint.states
    conditioner: ConditionerModule | None = None
    if config.conditioner is not None:
        cond = config.conditioner
        conditioner = build(lambda: make_conditioner(cond), states["conditioner"], "conditioner", device, dtype)
    unet = build(lambda: UNet(config.unet), states["unet"], "unet", device, dtype)
    precision, make = config.first_stage.weights_dtype(dtype), lambda: Autoencoder(config.first_stage)
    return LatentDiffusion(
        id=name,
        config=config,
        schedule=NoiseSchedule(config.schedule),
        denoiser=Denoiser(unet, torch.device(device), dtype),
        first_stage=build(make, states["first_stage"], "first stage", device, precision),
        conditioner=conditioner,
        tokenizer=checkpoint.tokenizer,
    )
