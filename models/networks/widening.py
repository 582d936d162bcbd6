"""Networks that keep their weights in half precision and compute in float32, one layer widened at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.networks.layers import HALF


def compute_in_float32(module: nn.Module) -> None:
    """Let every layer see its weights in float32 while it runs: exact products of what the file holds, at the memory
    of the largest layer. Of an embedding only what is looked up is widened. For inference alone."""
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            layer.register_forward_hook(_widen_output)
        elif any(weight.dtype in HALF for weight in layer.parameters(recurse=False)):
            _Widening(layer)


class _Widening:
    """The two hooks of one layer; between them it holds float32 copies of its weights."""

    def __init__(self, layer: nn.Module) -> None:
        self._half = {name: weight for name, weight in layer.named_parameters(recurse=False) if weight.dtype in HALF}
        layer.register_forward_pre_hook(self._widen)
        layer.register_forward_hook(self._narrow, always_call=True)  # also after a call that ran out of memory

    def _widen(self, layer: nn.Module, _args: Any) -> None:
        for name, weight in self._half.items():
            setattr(layer, name, nn.Parameter(weight.float(), requires_grad=False))

    def _narrow(self, layer: nn.Module, _args: Any, _out: Any) -> None:
        for name, weight in self._half.items():
            setattr(layer, name, weight)


def _widen_output(_layer: nn.Module, _args: Any, out: Tensor) -> Tensor:
    return out.float()
