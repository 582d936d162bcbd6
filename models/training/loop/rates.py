"""The optimiser, and its learning rate as a function of the step alone, so that resuming needs no scheduler's state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from models.training.configs.base import OptimizerConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """Make AdamW by its fused kernel: each value is read once a step, and a GPU is asked once."""
    return torch.optim.AdamW(
        list(parameters),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the rate of a step of `steps`: linear warm-up, constant, then half a cosine down to `final`."""
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    done = step / steps
    if done <= config.decay_from or config.decay_from == 1.0:
        return config.learning_rate * warm
    fall = (done - config.decay_from) / (1 - config.decay_from)
    return config.learning_rate * warm * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * fall)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
