"""Packed weights: the same results to bfloat16's digits, in layers that stay what they were to whoever hooks them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.blocks import GroupNorm
from models.networks.layers import Conv2d, Linear, can_pack, pack, packed
from models.networks.unet import UNet
from tests.tiny import configs

CPU = torch.device("cpu")
needs_layouts = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="oneDNN has no layouts of its own on this CPU"
)


def _unet() -> UNet:
    torch.manual_seed(0)
    return UNet(configs()["sd-inpaint"].unet).bfloat16().eval()


def _call(unet: UNet, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    z_t, context = (torch.randn(rows, *shape, generator=generator).bfloat16() for shape in ((9, 8, 8), (5, 16)))
    with torch.inference_mode():
        out: Tensor = unet(z_t, torch.full((rows,), 300.0), context)
    return out.float()


@needs_layouts
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_packed_network_computes_the_same(rows: int) -> None:
    unet, plain = _unet(), _unet()
    pack(unet)
    assert packed(unet)
    assert not packed(plain)
    torch.testing.assert_close(_call(unet, rows), _call(plain, rows), atol=0.02, rtol=0.02)


@needs_layouts
def test_packed_layers_are_named_and_hooked_as_before() -> None:
    unet = _unet()
    names = [name for name, _ in unet.named_modules()]
    pack(unet)
    assert [name for name, _ in unet.named_modules()] == names
    before = _call(unet, 1)
    layer = unet.conv_out
    assert isinstance(layer, nn.Conv2d)
    layer.register_forward_hook(lambda _layer, _args, out: out + 1)
    assert torch.equal(_call(unet, 1), (before.bfloat16() + 1).float())


@needs_layouts
@pytest.mark.parametrize("layer", [Linear(12, 20), Linear(12, 20, bias=False), Conv2d(12, 20, 3, stride=2, padding=1)])
def test_every_layer_packs(layer: Linear | Conv2d) -> None:
    layer = layer.bfloat16()
    x = torch.randn((2, 12, 6, 6) if isinstance(layer, Conv2d) else (2, 7, 12)).bfloat16()
    with torch.inference_mode():
        plain = layer(x)
        layer.pack()
        torch.testing.assert_close(layer(x), plain)


def test_only_bfloat16_on_a_cpu_is_packed() -> None:
    assert not can_pack(CPU, torch.float32)
    assert not can_pack(CPU, torch.float16)
    assert not can_pack(torch.device("cuda"), torch.bfloat16)


def test_normed_maps_keep_their_layout_forth_and_back() -> None:
    """In half precision the kernel works on a copy; what follows and its gradient stay channels-last."""
    norm = GroupNorm(4, 16).bfloat16()
    maps = [torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(2)).bfloat16() for _ in range(2)]
    maps[1] = maps[1].contiguous(memory_format=torch.channels_last)
    plain, last = (x.requires_grad_() for x in maps)
    normed = norm(last)
    assert normed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(normed, norm(plain), atol=0, rtol=0)
    gradients = [torch.autograd.grad(norm(x).square().sum(), x)[0] for x in (plain, last)]
    torch.testing.assert_close(*gradients, atol=0, rtol=0)
