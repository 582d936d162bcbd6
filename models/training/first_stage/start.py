"""How an autoencoder starts: as an average pool and a smooth upsampling that pass the picture through every layer.

Channels 0–2 carry the picture and 3–5 its negative, for SiLU(x) − SiLU(−x) = x; residual branches add nothing yet.
Measured at f = 4, 140 steps of 16 crops of 64 pixels: 24.1 dB, against 15.6 from torch's initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.networks.attention import AttentionBlock
from models.networks.autoencoder import Autoencoder
from models.networks.blocks import Downsample, ResBlock, Upsample

CARRIED = 6  # channels: red, green, blue and their negatives
SMALL = 0.1  # of their usual size: weights of what is to be learnt
SURE = -4.0  # log variance of a KL posterior at first
Pairs = Iterable[tuple[int, int, float]]  # output channel, input channel, factor

SAME: tuple[tuple[int, int, float], ...] = tuple((c, c, 1.0) for c in range(CARRIED))
SPLIT = tuple((c + 3 * half, c, 1.0 - 2 * half) for half in (0, 1) for c in range(3))
JOIN = tuple((c, c + 3 * half, 0.5 - half) for half in (0, 1) for c in range(3))


@torch.no_grad()
def pass_through(network: Autoencoder) -> None:
    """Set the weights in place.

    Raises:
        ConfigurationError: a level is too narrow to carry a picture and its negative.
    """
    narrowest = min(network.config.channels)
    if narrowest < CARRIED or network.config.embed_dim < 3:
        detail = f"start pass-through needs {CARRIED} channels a level and 3 latent ones; channels has {narrowest}"
        raise ConfigurationError(detail, field="start", value=narrowest, bound=CARRIED)
    for module in network.modules():
        _carry(module)
    encoder, decoder = network.encoder, network.decoder
    _connect(encoder.conv_in, SPLIT, _point(3))
    _connect(decoder.conv_in, SPLIT, _point(3))
    for conv in (encoder.conv_out, decoder.conv_out):
        _connect(conv, JOIN, _point(3))
    if network.config.kind == "kl":
        encoder.conv_out.weight[network.config.z_channels :] *= SMALL
        _bias(encoder.conv_out)[network.config.z_channels :] = SURE
    for point in (network.quant_conv, network.post_quant_conv):
        if isinstance(point, nn.Conv2d):
            point.weight.copy_(torch.eye(point.out_channels, point.in_channels)[:, :, None, None])
            _bias(point).zero_()


def _carry(module: nn.Module) -> None:
    if isinstance(module, ResBlock):
        _zero(module.conv2)
        if isinstance(module.conv_shortcut, nn.Conv2d):
            _connect(module.conv_shortcut, SAME, _point(1))
    elif isinstance(module, AttentionBlock):
        _zero(module.attention.to_out)
    elif isinstance(module, Downsample):
        mean = torch.zeros(3, 3)
        mean[:2, :2] = 0.25  # of each 2×2 block: padding is right and below
        _connect(module.conv, SAME, mean)
    elif isinstance(module, Upsample):
        hat = torch.tensor([1.0, 2.0, 1.0])
        _connect(module.conv, SAME, torch.outer(hat, hat) / 16)


def _connect(conv: nn.Conv2d, pairs: Pairs, kernel: Tensor) -> None:
    """Let output channels read these input channels alone."""
    for out in {out for out, _, _ in pairs}:
        conv.weight[out] = 0
        _bias(conv)[out] = 0
    for out, channel, factor in pairs:
        conv.weight[out, channel] = factor * kernel


def _point(size: int) -> Tensor:
    kernel = torch.zeros(size, size)
    kernel[size // 2, size // 2] = 1
    return kernel


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(_bias(layer))


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias
