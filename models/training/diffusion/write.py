"""The checkpoint of a run: the averaged weights in the internal form, with a card, ready to be served."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.checkpoints.card import write_card
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.layouts.native import save_native
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import DiffusionRun
from models.training.loop.replacing import replaced

FOLDER = "checkpoint"  # of a run
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def write_checkpoint(run: DiffusionRun, model: LatentDiffusion, classes: tuple[str, ...]) -> None:
    """Write the run's checkpoint whole; the one before is replaced.

    classes: names of the data's classes by their numbers, which requests of a class model may say.
    """
    dtype = DTYPES[run.save_dtype]
    states = {"unet": _state(model.unet, dtype), "first_stage": _state(model.first_stage, dtype)}
    if model.conditioner is not None:
        states["conditioner"] = _state(model.conditioner, dtype)
    checkpoint = Checkpoint(model.config, states, model.tokenizers)
    names = classes if model.config.classes is not None else ()
    with replaced(run.out / FOLDER) as unfinished:
        save_native(checkpoint, unfinished)
        write_card(checkpoint, unfinished, unfinished, run.name, kept=_told(run, names))


def _state(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        key: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
        for key, value in module.state_dict().items()
    }


def _told(run: DiffusionRun, names: tuple[str, ...]) -> dict[str, Any]:
    card = run.card
    defaults = {"steps": run.card_steps, "sampler": card.sampler, "guidance_scale": card.guidance_scale}
    told: dict[str, Any] = {"licence": card.licence, "defaults": defaults}
    if names:
        told["class_names"] = list(names)
    if card.attribution:
        told["attribution"] = list(card.attribution)
    return told | ({"description": card.description} if card.description else {})
