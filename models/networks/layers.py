"""Linear layers and convolutions whose weights can be laid out once as oneDNN wants them, instead of in every call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


class Linear(nn.Linear):
    """torch's, until its weights are packed."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return out
        return F.linear(x, self.weight, self.bias)

    def pack(self) -> None:
        """Lay out the weights, which nothing but a call can read afterwards."""
        self.weight = _parameter(torch.ops.mkldnn._reorder_linear_weight(self.weight, None))


class Conv2d(nn.Conv2d):
    """torch's, until its weights are packed."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            geometry = (self.padding, self.stride, self.dilation, self.groups)
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *geometry, "none", [], "")
            return out
        return super().forward(x)

    def pack(self) -> None:
        """Lay out the weights, which nothing but a call can read afterwards."""
        assert not isinstance(self.padding, str)
        geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        self.weight = _parameter(torch._C._nn.mkldnn_reorder_conv2d_weight(self.weight.to_mkldnn(), *geometry))


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether packing changes anything: bfloat16 on a CPU with AVX-512, of which oneDNN makes layouts of its own.

    In float32 the gain is small, and a checkpoint's results would not keep their last bits.
    """
    ops = ("_linear_pointwise", "_convolution_pointwise", "_reorder_linear_weight")
    built = torch._C._has_mkldnn and all(hasattr(torch.ops.mkldnn, name) for name in ops)
    avx512 = bool(torch.cpu.get_capabilities().get("avx512_f"))
    return device.type == "cpu" and dtype == torch.bfloat16 and avx512 and built


def pack(network: nn.Module) -> None:
    """Pack all layers of a network that from now on only computes."""
    for layer in network.modules():
        if isinstance(layer, Conv2d | Linear):
            layer.pack()


def packed(network: nn.Module) -> bool:
    """Tell whether the network's weights are packed."""
    return any(weight.is_mkldnn for weight in network.parameters())


def _parameter(packed: Tensor) -> nn.Parameter:
    return nn.Parameter(packed, requires_grad=False)
