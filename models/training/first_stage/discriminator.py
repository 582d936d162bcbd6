"""The patch discriminator (Isola et al. 2017), its hinge loss, and how much it weighs (Esser et al. 2021, Eq. 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.training.loop.processes import Processes

WIDTH, LAYERS = 64, 3
SLOPE = 0.2
EPS, MOST = 1e-4, 1e4


class PatchDiscriminator(nn.Module):
    """Picture b 3 H W → logits b 1 h w, one for each overlapping patch.

    GroupNorm instead of the original's BatchNorm: a picture's logits don't depend on which others are in its batch.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for i in range(1, LAYERS + 1):
            a, b = width * min(2 ** (i - 1), 8), width * min(2**i, 8)
            stride = 2 if i < LAYERS else 1
            layers += [nn.Conv2d(a, b, 4, stride=stride, padding=1, bias=False), nn.GroupNorm(8, b)]
            layers += [nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * 2**LAYERS, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """Return the discriminator's loss of each picture, b."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + made)).mean(dim=(1, 2, 3))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor, processes: Processes) -> Tensor:
    """Return λ = ‖∇ reconstruction‖ / ‖∇ adversarial‖ at the decoder's last layer, over all processes' samples."""
    norms: list[Tensor] = []
    for loss in (reconstruction, adversarial):
        (gradient,) = torch.autograd.grad(loss, last, retain_graph=True)
        norms.append(torch.linalg.vector_norm(processes.sum(gradient)))
    return torch.clamp(norms[0] / (norms[1] + EPS), 0, MOST).detach()
