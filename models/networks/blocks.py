"""Convolutional pieces that first stages and UNets share: residual blocks and changes of resolution."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from models.networks.layers import HALF, Conv2d, Linear

Resample = Literal["up", "down"]
LARGE_MAP = 64 * 64  # pixels
STRIP = 128  # rows whose statistics are taken at a time


class GroupNorm(nn.GroupNorm):
    """torch's, but for large channels-last maps on CPUs, whose statistics it adds up in float32 one by one.

    Measured against float64: a relative error of 4e-4 in the deviation at 1024², two grey levels after a decoder.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.is_contiguous():
            return super().forward(x)
        if x[0, 0].numel() <= LARGE_MAP:
            return super().forward(x) if x.dtype not in HALF else self._copied(x)
        slope, offset = group_affine(self, x)
        return torch.addcmul(offset, x, slope)

    def _copied(self, x: Tensor) -> Tensor:
        # In half precision torch's kernel for channels-last maps takes up to ten times as long as these copies. Without
        # the second, gradients of activations meet maps of two layouts: a training step takes 1.04 times as long.
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def group_affine(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and offset b c 1 1 with which GroupNorm(x) = slope · x + offset."""
    mean, var = _statistics(x, norm.num_groups)  # b g
    size = x.shape[1] // norm.num_groups
    slope = repeat((var + norm.eps).rsqrt(), "b g -> b (g c)", c=size) * norm.weight
    offset = norm.bias - repeat(mean, "b g -> b (g c)", c=size) * slope
    return rearrange(slope.to(x.dtype), "b c -> b c 1 1"), rearrange(offset.to(x.dtype), "b c -> b c 1 1")


def _statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance b g of every group, in float64 from those of strips, which bounds the memory."""
    mean = square = torch.zeros((), dtype=torch.float64, device=x.device)
    for strip in torch.tensor_split(x, -(-x.shape[2] // STRIP), dim=2):
        share = strip.shape[2] / x.shape[2]
        strip = strip.float()  # half precision has too few digits for a mean
        center = strip.mean(dim=(2, 3), keepdim=True)  # b c 1 1
        spread = (strip - center).square_().mean(dim=(2, 3)).double()  # b c
        center = rearrange(center, "b c 1 1 -> b c").double()
        mean = mean + share * center
        square = square + share * (spread + center.square())
    mean, square = (reduce(value, "b (g c) -> b g", "mean", g=groups) for value in (mean, square))
    return mean, square - mean.square()


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, around a residual; the time embedding shifts (or scales and shifts) between.

    With `resample` the block also halves (mean) or doubles (nearest) the resolution of both branches (BigGAN blocks).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        eps: float,
        emb_channels: int | None = None,
        scale_shift: bool = False,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        if emb_channels is not None:
            self.time_emb_proj = Linear(emb_channels, out_channels * (2 if scale_shift else 1))
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Take a feature map and the already activated embedding SiLU(emb)."""
        h = F.silu(self.norm1(x))  # b c h w
        if self.resample is not None:
            x, h = _resampled(x, self.resample), _resampled(h, self.resample)
        h = self.conv1(h)  # b c' h w
        h = F.silu(self.norm2(h) if emb is None else self._modulated(h, emb))
        return self.conv_shortcut(x) + self.conv2(h)  # type: ignore[no-any-return]  # b c' h w

    def _modulated(self, h: Tensor, emb: Tensor) -> Tensor:
        e = self.time_emb_proj(emb)[:, :, None, None]  # b c' 1 1, twice c' when it also scales
        if not self.scale_shift:
            return self.norm2(h + e)  # type: ignore[no-any-return]
        scale, shift = e.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm2(h), 1 + scale)


def _resampled(x: Tensor, how: Resample) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if how == "up" else F.avg_pool2d(x, 2)


class Embedding(nn.Embedding):
    """Not initialised on the meta device: torch would import its compiler for that alone, 2 s of every start."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class PooledDownsample(nn.Module):
    """The mean of 2 × 2 pixels: a UNet's halving without weights (`conv_resample: false`)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)  # b c h/2 w/2


class NearestUpsample(nn.Module):
    """Nearest neighbour to `size` alone: a UNet's doubling without weights."""

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return F.interpolate(x, size=size or (2 * x.shape[2], 2 * x.shape[3]), mode="nearest")  # b c 2h 2w


class Downsample(nn.Module):
    """Strided convolution. First stages pad right and bottom only, as VQGAN does; UNets pad all around."""

    def __init__(self, channels: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest neighbour to `size` (twice the input unless that was odd), then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        size = size or (2 * x.shape[2], 2 * x.shape[3])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))  # type: ignore[no-any-return]
