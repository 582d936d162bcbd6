"""How much arithmetic a UNet call is, and the most that a card can do: together, model FLOP utilisation.

Counted as is usual: 2 per multiplication with addition, of convolutions, linear layers and attention products alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.inputs import Inputs
from models.networks.unet import UNet
from models.pipeline.config import ModelConfig
from models.pipeline.denoiser import Denoiser
from workers.engine.scheduler import Shape

SIZES = (2, 3, 4)  # in units of the smallest latent that the UNet can halve (not every norm takes that one pixel)

# Dense peaks in FLOP/s by words of the card's name, as its maker's data sheet gives them without sparsity.
# float32 is TF32 where the card has it: torch lets convolutions use it.
PEAKS: Mapping[str, Mapping[torch.dtype, float]] = {
    "H200": {torch.float32: 494.7e12, torch.float16: 989.4e12, torch.bfloat16: 989.4e12},
    "H100 PCIe": {torch.float32: 378e12, torch.float16: 756e12, torch.bfloat16: 756e12},
    "H100": {torch.float32: 494.7e12, torch.float16: 989.4e12, torch.bfloat16: 989.4e12},
    "A100": {torch.float32: 156e12, torch.float16: 312e12, torch.bfloat16: 312e12},
    "L40S": {torch.float32: 183e12, torch.float16: 362e12, torch.bfloat16: 362e12},
    "L4": {torch.float32: 60.5e12, torch.float16: 121e12, torch.bfloat16: 121e12},
    "A10G": {torch.float32: 35e12, torch.float16: 70e12, torch.bfloat16: 70e12},
    "T4": {torch.float32: 8.1e12, torch.float16: 65e12},
}


def peak_flops(card: str, dtype: torch.dtype) -> float | None:
    """Return the card's dense peak in FLOP/s, None if its name or the dtype isn't in the table."""
    for name, peaks in PEAKS.items():
        if all(word in card.replace("-", " ").split() for word in name.split()):
            return peaks.get(dtype)
    return None


@dataclass(frozen=True, slots=True)
class RowFlops:
    """FLOPs of one row as a quadratic in its latent's area: convolutions are linear in it, self-attention quadratic."""

    constant: float
    linear: float
    quadratic: float

    def __call__(self, shape: Shape) -> float:
        area = float(shape[1] * shape[2])
        return self.constant + self.linear * area + self.quadratic * area**2


class Described(Protocol):
    """A model whose network is known, in memory or not."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def token_window(self) -> int | None: ...


@torch.inference_mode()
def row_flops(model: Described) -> RowFlops:
    """Counted once, in calls of one row on small latents, which nothing computes."""
    with torch.device("meta"):
        unet = UNet(model.config.unet).to(model.dtype).eval()
    unit = 2 ** (len(model.config.unet.channels) - 1)
    sides = [unit * size for size in SIZES]
    counts = [count_flops(unet, model.token_window or 1, side) for side in sides]
    areas = torch.tensor([[1.0, side**2, side**4] for side in sides], dtype=torch.float64)
    constant, linear, quadratic = torch.linalg.solve(areas, torch.tensor(counts, dtype=torch.float64)).tolist()
    return RowFlops(constant, linear, quadratic)


def count_flops(unet: UNet, tokens: int, side: int) -> float:
    """Count the FLOPs of one row on a latent side × side, by a call on the meta device."""
    config = unet.config
    shape = (1, tokens, config.context_dim or 1)
    context = None if config.context_dim is None else torch.zeros(shape, device="meta")
    labels = None if config.num_classes is None else torch.zeros(1, dtype=torch.long, device="meta")
    added = None if config.added_dim is None else torch.zeros(1, config.added_dim, device="meta")
    inputs = Inputs(context, labels=labels, added=added)
    denoiser = Denoiser(unet, torch.device("meta"), next(unet.parameters()).dtype)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels go uncounted
        denoiser(torch.zeros(1, config.in_channels, side, side), torch.zeros(1), inputs)
    return float(counter.get_total_flops())
