"""What every reader of checkpoints returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.checkpoints.build import State, fit
from models.config import ModelConfig
from models.networks.autoencoder import Autoencoder
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from models.tokenizers.prompts import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Config, weights under our names by part (unet, first_stage, conditioner), the tokenizer if there is one."""

    config: ModelConfig
    states: dict[str, dict[str, Tensor]]
    tokenizer: PromptTokenizer | None = None
    assumptions: tuple[str, ...] = ()  # what the files don't say and a family's habit filled in
    prediction_assumed: bool = False  # nothing tells eps from v: the network is asked when it is loaded
    sampler: str | None = None  # that the authors chose, where it is one of ours


def makers(config: ModelConfig) -> dict[str, Callable[[], nn.Module]]:
    """Return how the module of each part is made."""
    parts: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet(config.unet),
        "first_stage": lambda: Autoencoder(config.first_stage),
    }
    conditioner = config.conditioner
    if conditioner is not None:
        parts["conditioner"] = lambda: make_conditioner(conditioner)
    return parts


def shapes(config: ModelConfig) -> dict[str, dict[str, torch.Size]]:
    """Return keys and shapes of every part, without allocating any."""
    with torch.device("meta"):
        modules = {part: make() for part, make in makers(config).items()}
    return {part: {key: value.shape for key, value in m.state_dict().items()} for part, m in modules.items()}


def fitted(checkpoint: Checkpoint) -> dict[str, State]:
    """Return the weights exactly as our modules hold them, unchanged in precision.

    Raises:
        CheckpointError: naming a key.
    """
    return {part: fit(checkpoint.states[part], wanted, part) for part, wanted in shapes(checkpoint.config).items()}
