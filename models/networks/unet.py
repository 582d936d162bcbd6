"""The denoiser ε_θ(z_t, t, τθ(y)): a UNet with cross-attention, concatenation or class labels (paper §3.2, §3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.attention import AttentionBlock, SpatialTransformer
from models.networks.blocks import (
    Downsample,
    Embedding,
    GroupNorm,
    NearestUpsample,
    PooledDownsample,
    ResBlock,
    Upsample,
)
from models.networks.layers import Conv2d, Linear

MAX_PERIOD = 10000.0


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Shape of a UNet; per-level tuples run from the latent's resolution down."""

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    res_blocks: int
    attention: tuple[bool, ...]  # after each residual block of the level
    heads: tuple[int, ...]
    mid_heads: int
    mid_attention: bool = True
    mid_attention_norm: bool = True  # diffusers leaves it out of scale-shift UNets unless told
    context_dim: int | None = None  # None: plain self-attention blocks, nothing to attend to
    depth: tuple[int, ...] = ()  # transformer blocks of each level, where there is a context
    mid_depth: int = 1
    only_cross_attention: tuple[bool, ...] = ()  # of levels; the middle always attends to itself, too
    linear_projection: bool = False  # how files store proj_in and proj_out; computes the same
    scale_shift_norm: bool = False
    res_down: tuple[bool, ...] = ()  # levels halved by a residual block instead of a convolution
    res_up: tuple[bool, ...] = ()  # levels doubled by one
    conv_resample: bool = True  # else levels are halved by means and doubled by nearest neighbours, without weights
    num_classes: int | None = None  # class labels or noise levels added to the time embedding
    added_dim: int | None = None  # width of a vector that is projected and added to the time embedding (SDXL)
    added_sinusoids: int = 256  # channels of each number in that vector: sizes, crop, score
    guidance_dim: int | None = None  # of the embedded guidance scale that a distilled network reads
    norm_groups: int = 32
    norm_eps: float = 1e-5


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Return sinusoids b dim of t (b), [cos | sin], periods 2π … 2π·10000 (Vaswani et al. 2017; DDPM)."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) * (-math.log(MAX_PERIOD) / half)
    args = timesteps.float()[:, None] * exponent.exp()  # b half
    emb = torch.cat([args.cos(), args.sin()], dim=1)
    return F.pad(emb, (0, dim % 2))


def guidance_embedding(guidance_scale: Tensor, dim: int) -> Tensor:
    """Return sinusoids b dim of 1000·(s − 1) for scales s (b), [sin | cos] (Luo et al. 2023, latent consistency).

    Unlike those of t, their periods end at exactly 2π·10000.
    """
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=guidance_scale.device) * (
        -math.log(MAX_PERIOD) / (half - 1)
    )
    args = 1000.0 * (guidance_scale.float() - 1.0)[:, None] * exponent.exp()  # b half
    return F.pad(torch.cat([args.sin(), args.cos()], dim=1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """Two linear layers over the sinusoids, to which those of a guidance scale may be added."""

    def __init__(self, channels: int, emb_channels: int, guidance_dim: int | None = None) -> None:
        super().__init__()
        if guidance_dim is not None:
            self.cond_proj = Linear(guidance_dim, channels, bias=False)
        self.linear_1 = Linear(channels, emb_channels)
        self.linear_2 = Linear(emb_channels, emb_channels)

    def forward(self, sinusoids: Tensor, guidance: Tensor | None = None) -> Tensor:
        if guidance is not None:
            sinusoids = sinusoids + self.cond_proj(guidance)  # b c
        return self.linear_2(F.silu(self.linear_1(sinusoids)))  # type: ignore[no-any-return]  # b e


def _res_block(config: UNetConfig, a: int, b: int, resample: str | None = None) -> ResBlock:
    return ResBlock(
        a,
        b,
        groups=config.norm_groups,
        eps=config.norm_eps,
        emb_channels=4 * config.channels[0],
        scale_shift=config.scale_shift_norm,
        resample=resample,  # type: ignore[arg-type]
    )


def _attention(config: UNetConfig, level: int | None) -> nn.Module:
    """Make the attention layer of a level; None is the middle."""
    i = -1 if level is None else level
    channels = config.channels[i]
    heads = config.mid_heads if level is None else config.heads[i]
    if config.context_dim is None:
        normed = level is not None or config.mid_attention_norm
        return AttentionBlock(channels, heads, config.norm_groups if normed else None, config.norm_eps)
    depth = config.mid_depth if level is None else config.depth[i]
    only = level is not None and config.only_cross_attention[i]
    return SpatialTransformer(channels, config.context_dim, heads, depth, config.norm_groups, only)


class UNetLevel(nn.Module):
    """Residual blocks of one resolution with their attention, and the resampling after them."""

    def __init__(self, config: UNetConfig, level: int, widths: list[tuple[int, int]]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_res_block(config, a, b) for a, b in widths)
        self.attentions = nn.ModuleList(_attention(config, level) for _ in widths if config.attention[level])
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def layer(self, i: int, h: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        h = self.resnets[i](h, emb)  # b c h w
        return _attend(self.attentions[i], h, context) if len(self.attentions) else h


def _attend(attention: nn.Module, h: Tensor, context: Tensor | None) -> Tensor:
    return attention(h) if isinstance(attention, AttentionBlock) else attention(h, context)  # type: ignore[no-any-return]


class UNetMiddle(nn.Module):
    """Two residual blocks around the attention of the lowest resolution; some ControlNets have one and no attention."""

    def __init__(self, config: UNetConfig, res_blocks: int = 2) -> None:
        super().__init__()
        width = config.channels[-1]
        self.resnets = nn.ModuleList(_res_block(config, width, width) for _ in range(res_blocks))
        self.attentions = nn.ModuleList([_attention(config, None)] if config.mid_attention else [])

    def forward(self, h: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        h = self.resnets[0](h, emb)  # b c h w
        for attention in self.attentions:
            h = _attend(attention, h, context)
        for resnet in self.resnets[1:]:
            h = resnet(h, emb)
        return h


class UNetTrunk(nn.Module):
    """The way down and the middle: what a ControlNet has a copy of."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], 4 * channels[0], config.guidance_dim)
        if config.num_classes is not None:
            self.class_embedding = Embedding(config.num_classes, 4 * channels[0])
        if config.added_dim is not None:
            self.add_embedding = TimeEmbedding(config.added_dim, 4 * channels[0])
        self.down_blocks = nn.ModuleList()
        self.skip_channels = self._build_down()  # of what goes across to the way up
        self.mid_block = UNetMiddle(config)

    def _build_down(self) -> list[int]:
        config, width = self.config, self.config.channels[0]
        skips = [width]
        for i, channels in enumerate(config.channels):
            widths = [(width, channels)] + [(channels, channels)] * (config.res_blocks - 1)
            level = UNetLevel(config, i, widths)
            skips += [channels] * config.res_blocks
            if i < len(config.channels) - 1:
                if config.res_down and config.res_down[i]:
                    level.downsamplers.append(_res_block(config, channels, channels, "down"))
                else:
                    level.downsamplers.append(
                        Downsample(channels, symmetric=True) if config.conv_resample else PooledDownsample()
                    )
                skips.append(channels)
            self.down_blocks.append(level)
            width = channels
        return skips

    def _embedding(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        labels: Tensor | None,
        added: Tensor | None,
        guidance_scale: Tensor | None,
    ) -> Tensor:
        sinusoids = timestep_embedding(timesteps, self.config.channels[0]).to(z_t.dtype)  # b c
        dim, guidance = self.config.guidance_dim, None
        if guidance_scale is not None and dim is not None:
            guidance = guidance_embedding(guidance_scale, dim).to(z_t.dtype)
        emb = self.time_embedding(sinusoids, guidance)
        if labels is not None:
            emb = emb + self.class_embedding(labels)
        if added is not None:
            emb = emb + self.add_embedding(added)
        return F.silu(emb)

    def _down(self, h: Tensor, emb: Tensor, context: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        skips = [h]
        for level in self.down_blocks:
            assert isinstance(level, UNetLevel)
            for i in range(len(level.resnets)):
                h = level.layer(i, h, emb, context)
                skips.append(h)
            for down in level.downsamplers:
                h = down(h, emb) if isinstance(down, ResBlock) else down(h)
                skips.append(h)
        return h, skips


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What a ControlNet adds to some rows: b' c h w each for all that goes across, and for the middle's output."""

    rows: Tensor  # b', their numbers in the call, each once
    across: Sequence[Tensor]
    middle: Tensor

    def add(self, skips: Sequence[Tensor], h: Tensor) -> None:
        """Add to these rows alone, in place; the others keep their bits."""
        for whole, part in zip((*skips, h), (*self.across, self.middle), strict=True):
            whole.index_add_(0, self.rows, part)


class UNet(UNetTrunk):
    """Predicts eps, v or x0 (the checkpoint's choice) for every row's own timestep."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.up_blocks = nn.ModuleList()
        self._build_up(list(self.skip_channels))
        self.conv_norm_out = GroupNorm(config.norm_groups, config.channels[0], eps=config.norm_eps)
        self.conv_out = Conv2d(config.channels[0], config.out_channels, 3, padding=1)

    def _build_up(self, skips: list[int]) -> None:
        config, width = self.config, self.config.channels[-1]
        for i in reversed(range(len(config.channels))):
            channels = config.channels[i]
            inputs = [width] + [channels] * config.res_blocks
            level = UNetLevel(config, i, [(a + skips.pop(), channels) for a in inputs])
            if i > 0:
                res = config.res_up and config.res_up[i]
                plain = Upsample(channels) if config.conv_resample else NearestUpsample()
                level.upsamplers.append(_res_block(config, channels, channels, "up") if res else plain)
            self.up_blocks.append(level)
            width = channels

    def forward(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        labels: Tensor | None = None,
        added: Tensor | None = None,
        guidance_scale: Tensor | None = None,
        residuals: Sequence[Residuals] = (),
    ) -> Tensor:
        """Return the raw prediction b c h w.

        z_t: b c_in h w, concatenated conditioning included; timesteps: b; context: b n d;
        labels: b, class numbers or noise levels; added: b p, where the config has `added_dim`; guidance_scale: b, where
        the network was distilled to read it; residuals: what ControlNets add to some rows.
        """
        emb = self._embedding(z_t, timesteps, labels, added, guidance_scale)  # b 4c
        h = self.conv_in(z_t)  # b c h w
        h, skips = self._down(h, emb, context)
        h = self.mid_block(h, emb, context)  # b c h/2ⁿ w/2ⁿ
        for each in residuals:
            each.add(skips, h)
        h = self._up(h, skips, emb, context)  # b c h w
        return self.conv_out(F.silu(self.conv_norm_out(h)))  # type: ignore[no-any-return]

    def _up(self, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor | None) -> Tensor:
        for level in self.up_blocks:
            assert isinstance(level, UNetLevel)
            for i in range(len(level.resnets)):
                h = level.layer(i, torch.cat([h, skips.pop()], dim=1), emb, context)
            for up in level.upsamplers:
                # Odd sizes: the halved map was rounded up, so the skip says how large the doubled one must be.
                h = up(h, emb) if isinstance(up, ResBlock) else up(h, (skips[-1].shape[2], skips[-1].shape[3]))
        return h
