"""LPIPS (Zhang et al. 2018) on VGG16, where somebody gives both weights: torchvision's network and the linear heads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.checkpoints.layouts.compvis.single_file import read_single
from models.features.network import FeatureNetwork

# Channels of the convolutions; "M" halves. A feature map is taken before each halving and at the end.
LAYERS: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's statistics in [−1, 1]


class Lpips(FeatureNetwork):
    """VGG16's maps after each block, weighed by LPIPS's heads."""

    name = "LPIPS (VGG16)"
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_blocks())
        self.head_weights = nn.ParameterList(nn.Parameter(torch.zeros(c)) for c in (64, 128, 256, 512, 512))
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.shift) / self.scale
        maps = []
        for block in self.blocks:
            x = block(x)  # b c h w
            maps.append(x)
        return maps

    def heads(self) -> Sequence[Tensor]:
        return list(self.head_weights)


def load_lpips(vgg: Path, heads: Path) -> Lpips:
    """Read torchvision's VGG16 (`features.N.weight`) and LPIPS's heads (`linN.model.1.weight`).

    Raises:
        ConfigurationError: a file lacks a key or has another shape.
    """
    network = Lpips()
    convolutions = [m for m in network.blocks.modules() if isinstance(m, nn.Conv2d)]
    given = _features(read_single(vgg).state)
    if len(given) != len(convolutions):
        raise ConfigurationError(f"{vgg}: has {len(given)} convolutions; VGG16 has {len(convolutions)}")
    with torch.no_grad():
        for conv, (weight, bias) in zip(convolutions, given, strict=True):
            _copy(conv.weight, weight, vgg)
            _copy(conv.bias, bias, vgg)
        linear = read_single(heads).state
        for i, head in enumerate(network.head_weights):
            key = next((k for k in linear if re.match(rf"lin{i}\.model\.\d+\.weight$", k)), None)
            if key is None:
                raise ConfigurationError(f"{heads}: lacks lin{i}.model.1.weight")
            _copy(head, linear[key].flatten(), heads)
    return network.eval().requires_grad_(False)


def _blocks() -> list[nn.Sequential]:
    blocks: list[list[nn.Module]] = [[]]
    width = 3
    for layer in LAYERS:
        if isinstance(layer, str):
            blocks.append([nn.MaxPool2d(2)])
        else:
            blocks[-1] += [nn.Conv2d(width, layer, 3, padding=1), nn.ReLU()]
            width = layer
    return [nn.Sequential(*block) for block in blocks]


def _features(state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    numbers = sorted(int(m[1]) for key in state if (m := re.match(r"features\.(\d+)\.weight$", key)))
    return [(state[f"features.{n}.weight"], state[f"features.{n}.bias"]) for n in numbers]


def _copy(to: Tensor | None, value: Tensor, file: Path) -> None:
    assert to is not None
    if to.shape != value.shape:
        raise ConfigurationError(f"{file}: a weight has shape {list(value.shape)}, expected {list(to.shape)}")
    to.copy_(value)
