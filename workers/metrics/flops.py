"""How much arithmetic a UNet call is, and the most that a card can do: together, model FLOP utilisation.

Counted as is usual: 2 per multiplication with addition, of convolutions, linear layers and attention products alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from contract.measurements import Shape
from models.inputs import Inputs
from models.networks.controlnet import ControlNet, ControlNetConfig
from models.networks.unet import UNet, UNetConfig
from models.pipeline.config import ModelConfig
from models.pipeline.denoiser import Denoiser

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
    return _by_area(model.config.unet, lambda side: count_flops(unet, model.token_window or 1, side))


@torch.inference_mode()
def control_flops(config: UNetConfig, tokens: int) -> RowFlops:
    """Count those of one row of a ControlNet for such a UNet, whose picture was embedded before."""
    config = replace(config, in_channels=config.out_channels, num_classes=None, guidance_dim=None)
    with torch.device("meta"):
        network = ControlNet(ControlNetConfig(config)).eval()

    def count(side: int) -> float:
        with torch.device("meta"), _counting() as counter:
            z, hint = torch.zeros(1, config.in_channels, side, side), torch.zeros(1, config.channels[0], side, side)
            given = _inputs(config, tokens)
            network(z, torch.zeros(1), given.context, given.added, hint)
        return float(counter.get_total_flops())

    return _by_area(config, count)


def _by_area(config: UNetConfig, count: Callable[[int], float]) -> RowFlops:
    unit = 2 ** (len(config.channels) - 1)
    sides = [unit * size for size in SIZES]
    areas = torch.tensor([[1.0, side**2, side**4] for side in sides], dtype=torch.float64)
    counts = torch.tensor([count(side) for side in sides], dtype=torch.float64)
    constant, linear, quadratic = torch.linalg.solve(areas, counts).tolist()
    return RowFlops(constant, linear, quadratic)


def count_flops(unet: UNet, tokens: int, side: int) -> float:
    """Count the FLOPs of one row on a latent side × side, by a call on the meta device."""
    denoiser = Denoiser(unet, torch.device("meta"), next(unet.parameters()).dtype)
    z_t, inputs = torch.zeros(1, unet.config.in_channels, side, side), _inputs(unet.config, tokens)
    with _counting() as counter:
        denoiser(z_t, torch.zeros(1), inputs)
    return float(counter.get_total_flops())


def _inputs(config: UNetConfig, tokens: int) -> Inputs:
    """Make what a row is told of, on the meta device."""
    context = None if config.context_dim is None else torch.zeros((1, tokens, config.context_dim), device="meta")
    labels = None if config.num_classes is None else torch.zeros(1, dtype=torch.long, device="meta")
    added = None if config.added_dim is None else torch.zeros(1, config.added_dim, device="meta")
    return Inputs(context, labels=labels, added=added)


@contextmanager
def _counting() -> Iterator[FlopCounterMode]:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels go uncounted
        yield counter
