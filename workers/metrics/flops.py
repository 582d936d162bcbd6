"""How much arithmetic a UNet call is, and the most that a card can do: together, model FLOP utilisation.

Counted as is usual: 2 per multiplication with addition, of convolutions, linear layers and attention products alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.inputs import Inputs
from models.networks.attention import CrossAttention, SelfAttention
from models.pipeline import LatentDiffusion
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
    """The card's dense peak in FLOP/s, None if its name or the dtype isn't in the table."""
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


def row_flops_of(models: Mapping[str, LatentDiffusion]) -> dict[str, RowFlops]:
    """What a row of each model's UNet costs."""
    return {model: row_flops(loaded) for model, loaded in models.items()}


@torch.inference_mode()
def row_flops(model: LatentDiffusion) -> RowFlops:
    """Counted once, in calls of one row on small latents."""
    unit = 2 ** (len(model.config.unet.channels) - 1)
    sides = [unit * size for size in SIZES]
    counts = [count_flops(model, side) for side in sides]
    areas = torch.tensor([[1.0, side**2, side**4] for side in sides], dtype=torch.float64)
    constant, linear, quadratic = torch.linalg.solve(areas, torch.tensor(counts, dtype=torch.float64)).tolist()
    return RowFlops(constant, linear, quadratic)


def count_flops(model: LatentDiffusion, side: int) -> float:
    """FLOPs of one row on a latent side × side, by a call with zeros."""
    config, counted = model.config.unet, [0.0]
    hooks = [module.register_forward_hook(_adding(counted)) for module in model.unet.modules() if _counter(module)]
    z_t = torch.zeros(1, config.in_channels, side, side)
    shape = (1, model.token_window or 1, config.context_dim or 1)
    context = None if config.context_dim is None else torch.zeros(shape, device=model.device, dtype=model.dtype)
    labels = None if config.num_classes is None else torch.zeros(1, dtype=torch.long, device=model.device)
    model.predict(z_t, torch.zeros(1), Inputs(context, labels=labels))
    for hook in hooks:
        hook.remove()
    return counted[0]


Counter = Callable[[nn.Module, tuple[Tensor, ...], Tensor], float]


def _adding(counted: list[float]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def add(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        count = _counter(module)
        if count is not None:
            counted[0] += count(module, inputs, out)

    return add


def _counter(module: nn.Module) -> Counter | None:
    for kind, count in COUNTERS.items():
        if isinstance(module, kind):
            return count
    return None


def _convolution(module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> float:
    assert isinstance(module, nn.Conv2d)
    return 2.0 * module.weight.numel() * out.shape[-2] * out.shape[-1]


def _linear(module: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> float:
    assert isinstance(module, nn.Linear)
    return 2.0 * module.weight.numel() * (out.numel() // out.shape[-1])


def _sequence(_: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> float:
    """q·kᵀ and its product with v: keys are the context's tokens, or the sequence's own."""
    return 4.0 * out.shape[1] * inputs[-1].shape[1] * out.shape[2]


COUNTERS: Mapping[type[nn.Module], Counter] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    SelfAttention: _sequence,
    CrossAttention: _sequence,
}
