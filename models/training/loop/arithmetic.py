"""In which precision networks are trained, by which kernels, and whether they are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.training.configs.base import RunConfig

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def computing(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Compute networks in the run's precision.

    On a CPU attention is plain matrix products: its backward is faster than the fused kernel's, by 1.2 of a whole step.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=_bfloat16(config, device)):
        if device.type == "cuda":
            yield
            return
        with sdpa_kernel(SDPBackend.MATH):
            yield


def compiled(config: RunConfig, device: torch.device, function: F, *, pays: bool = True) -> F:
    """Compile what is called in every step, where it pays: on CUDA, if at all."""
    if config.compile == "never" or (config.compile == "auto" and not (pays and device.type == "cuda")):
        return function
    # Gradients are taken twice of one graph: for the adversarial loss's weight, and to learn.
    torch._functorch.config.donated_buffer = False
    return cast(F, torch.compile(function))


def _bfloat16(config: RunConfig, device: torch.device) -> bool:
    if config.precision != "auto":
        return config.precision == "bfloat16"
    # Where the chip has no instructions for it, bfloat16 is emulated and slower.
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())
