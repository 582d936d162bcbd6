"""What a feature network is, and the perceptual distance that it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPS = 1e-10


class FeatureNetwork(nn.Module, ABC):
    """Pictures b 3 H W in [−1, 1] → feature maps of several resolutions, the first the finest.

    `name` says which network it is; it stands beside every figure that it gives. `heads` weigh the channels of each
    map, where somebody learnt that (LPIPS); else all weigh the same.
    """

    name: str

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """Return feature maps, each b c h w."""

    def heads(self) -> Sequence[Tensor] | None:
        """Return a weight for each channel of each map."""
        return None


def perceptual_distance(network: FeatureNetwork, a: Tensor, b: Tensor) -> Tensor:
    """Return d(a, b) of each pair, b: squared differences of unit features (Zhang et al. 2018, Eq. 1)."""
    heads = network.heads()
    total = torch.zeros(len(a), device=a.device)
    for i, (x, y) in enumerate(zip(network(a), network(b), strict=True)):
        square = (_unit(x.float()) - _unit(y.float())).square()  # b c h w
        weighed = square if heads is None else square * heads[i][None, :, None, None]
        total = total + weighed.sum(dim=1).mean(dim=(1, 2))
    return total


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(dim=1, keepdim=True) + EPS).rsqrt()
