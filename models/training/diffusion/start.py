"""How a UNet starts: residual branches and output at zero, or with what fits of another checkpoint's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from core.errors import ConfigurationError
from models.checkpoints.checkpoint import fitted
from models.checkpoints.layouts.detect import load_checkpoint
from models.networks.attention import AttentionBlock, SpatialTransformer
from models.networks.blocks import ResBlock
from models.networks.unet import UNet


@dataclass(frozen=True, slots=True)
class Taken:
    """How many tensors were taken over, and which ones weren't."""

    count: int
    left: tuple[str, ...]


def fresh(network: UNet) -> UNet:
    """Let residual branches, attention and output give zero at first, as the original's zero modules do."""
    for module in network.modules():
        if isinstance(module, ResBlock):
            _zero(module.conv2)
        elif isinstance(module, SpatialTransformer):
            _zero(module.proj_out)
        elif isinstance(module, AttentionBlock):
            _zero(module.attention.to_out)
    _zero(network.conv_out)
    return network


@torch.no_grad()
def take_over(network: UNet, path: Path) -> Taken:
    """Copy every tensor of a checkpoint's UNet that has the same name and shape; an output that doesn't fit is zero.

    Raises:
        CheckpointError: the checkpoint doesn't read.
        ConfigurationError: nothing fits.
    """
    given, own = fitted(load_checkpoint(path))["unet"], network.state_dict()
    fits = {key for key, value in own.items() if key in given and given[key].shape == value.shape}
    if not fits:
        raise ConfigurationError(f"{path}: no tensor fits the run's UNet", field="start_from", value=str(path))
    network.load_state_dict({key: given[key].float() if key in fits else value for key, value in own.items()})
    left = tuple(sorted(own.keys() - fits))
    if any(key.startswith("conv_out.") for key in left):
        _zero(network.conv_out)
    return Taken(len(fits), left)


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
