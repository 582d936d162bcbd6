"""How a UNet starts: residual branches and output at zero, or with what fits of another checkpoint's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.checkpoints.checkpoint import fitted
from models.checkpoints.load import load_decided
from models.networks.attention import AttentionBlock, SpatialTransformer
from models.networks.blocks import ResBlock
from models.networks.conditioning import ConditionerModule
from models.networks.unet import UNet, UNetConfig
from models.pipeline.config import ModelConfig
from models.training.configs.diffusion import DiffusionRun


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
def take_over(network: UNet, conditioner: ConditionerModule | None, run: DiffusionRun, path: Path) -> Taken:
    """Copy every tensor of a checkpoint's UNet that has the same name and shape; an output that doesn't fit is zero.

    Of an input that differs only in what is concatenated, the latent's channels are kept, and the others begin at zero,
    as inpainting models begin. `conditioner`, one that begins from nothing, is taken over where it is the same.

    Raises:
        CheckpointError: the checkpoint doesn't read.
        ConfigurationError: nothing fits, or what fits would compute something else.
    """
    checkpoint = load_decided(path)
    states = fitted(checkpoint)
    given, own = _widened(states["unet"], network), network.state_dict()
    fits = {key for key, value in own.items() if key in given and given[key].shape == value.shape}
    if not fits:
        raise ConfigurationError(f"{path}: no tensor fits the run's UNet", field="start_from", value=str(path))
    _check_alike(network.config, checkpoint.config, run, path)
    network.load_state_dict({key: given[key].float() if key in fits else value for key, value in own.items()})
    left = tuple(sorted(own.keys() - fits))
    if any(key.startswith("conv_out.") for key in left):
        _zero(network.conv_out)
    if conditioner is None or conditioner.config != checkpoint.config.conditioner:
        return Taken(len(fits), left)
    theirs = states["conditioner"]
    conditioner.load_state_dict({key: value.float() for key, value in theirs.items()})
    return Taken(len(fits) + len(theirs), left)


def _widened(given: dict[str, Tensor], network: UNet) -> dict[str, Tensor]:
    """Return weights whose input has the network's channels: the latent's come first in every model."""
    latent, wanted, found = network.config.out_channels, network.conv_in.weight, given["conv_in.weight"]
    same = found.shape[0] == wanted.shape[0] and found.shape[2:] == wanted.shape[2:]
    if found.shape == wanted.shape or not same or min(found.shape[1], wanted.shape[1]) < latent:
        return given
    wider = torch.zeros(wanted.shape)
    wider[:, :latent] = found[:, :latent]
    return given | {"conv_in.weight": wider}


def _check_alike(own: UNetConfig, given: ModelConfig, run: DiffusionRun, path: Path) -> None:
    """Refuse what no shape tells: heads, groups of norms, and a prediction that nobody chose."""
    theirs = given.unet
    pairs = [("norm_groups", own.norm_groups, theirs.norm_groups)]
    both = [ours and others for ours, others in zip(own.attention, theirs.attention, strict=False)]
    pairs += [("heads", a, b) for a, b, attends in zip(own.heads, theirs.heads, both, strict=False) if attends]
    pairs += [("heads", own.mid_heads, theirs.mid_heads)] if own.mid_attention and theirs.mid_attention else []
    for name, ours, others in pairs:
        if ours != others:
            detail = f"{path}: its unet.{name} is {others}, the run's {ours}: the weights would compute other things"
            raise ConfigurationError(detail, field=f"unet.{name}", value=ours, bound=others)
    predicts = given.schedule.prediction
    if predicts != run.schedule.prediction and "prediction" not in run.schedule.model_fields_set:
        detail = f"{path}: predicts {predicts}, and the run would learn {run.schedule.prediction}, the default; say in "
        detail += "schedule.prediction which is meant"
        raise ConfigurationError(detail, field="schedule.prediction", value=run.schedule.prediction, bound=predicts)


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
