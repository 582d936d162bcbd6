"""First stages E and D of the paper (§3.1, App. G): KL- and VQ-regularised autoencoders, f = 2^(levels − 1).

And a small decoder that stands for D where a rough picture is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from models.networks.attention import AttentionBlock
from models.networks.blocks import Downsample, GroupNorm, ResBlock, Upsample
from models.networks.layers import Conv2d
from models.networks.quantize import Quantizer

LOGVAR = (-30.0, 20.0)  # bounds of the posterior's log variance
EPS = 1e-6  # of every GroupNorm in a first stage


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Shape of a first stage; per-level tuples run from full resolution to the latent's."""

    kind: Literal["kl", "vq"]
    channels: tuple[int, ...]
    stem: int  # width of the encoder's first convolution; equals channels[0] unless ch_mult[0] ≠ 1
    z_channels: int
    embed_dim: int
    res_blocks: int
    attention: tuple[bool, ...]  # after each residual block of the level
    mid_attention: bool = True
    norm_groups: int = 32
    in_channels: int = 3
    out_channels: int = 3
    codebook: int = 0  # entries, VQ only
    quant_conv: bool = True
    post_quant_conv: bool = True
    force_upcast: bool = True  # overflows in half precision, where the model heeds it; diffusers' default

    @property
    def factor(self) -> int:
        """Pixels of a picture per latent pixel, f."""
        return int(2 ** (len(self.channels) - 1))


class AutoencoderLevel(nn.Module):
    """Residual blocks of one resolution, with attention after each where the level has it, then the resampling."""

    def __init__(self, widths: list[int], config: AutoencoderConfig, attends: bool) -> None:
        super().__init__()
        groups, pairs = config.norm_groups, list(pairwise(widths))
        self.resnets = nn.ModuleList(ResBlock(a, b, groups=groups, eps=EPS) for a, b in pairs)
        self.attentions = nn.ModuleList(AttentionBlock(b, 1, groups, EPS) for _, b in pairs if attends)
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.resnets):
            x = block(x)  # b c h w
            x = self.attentions[i](x) if len(self.attentions) else x
        for resample in (*self.downsamplers, *self.upsamplers):
            x = resample(x)
        return x


class AutoencoderMiddle(nn.Module):
    """Two residual blocks around one attention at the lowest resolution."""

    def __init__(self, channels: int, config: AutoencoderConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups=groups, eps=EPS) for _ in range(2))
        self.attentions = nn.ModuleList([AttentionBlock(channels, 1, groups, EPS)] if config.mid_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Picture to the 2·z (KL) or z (VQ) channels before `quant_conv`."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.conv_in = Conv2d(config.in_channels, config.stem, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        width = config.stem
        for i, channels in enumerate(config.channels):
            level = AutoencoderLevel([width] + [channels] * config.res_blocks, config, config.attention[i])
            if i < len(config.channels) - 1:
                level.downsamplers.append(Downsample(channels, symmetric=False))
            self.down_blocks.append(level)
            width = channels
        self.mid_block = AutoencoderMiddle(width, config)
        self.conv_norm_out = GroupNorm(config.norm_groups, width, eps=EPS)
        self.conv_out = Conv2d(width, config.z_channels * (2 if config.kind == "kl" else 1), 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)  # b c H W
        for level in self.down_blocks:
            h = level(h)  # b c H/2 W/2
        h = self.mid_block(h)  # b c h w
        return self.conv_out(nn.functional.silu(self.conv_norm_out(h)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latent after `post_quant_conv` to picture; one residual block more a level than the encoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width = config.channels[-1]
        self.conv_in = Conv2d(config.z_channels, width, 3, padding=1)
        self.mid_block = AutoencoderMiddle(width, config)
        self.up_blocks = nn.ModuleList()
        for i in reversed(range(len(config.channels))):
            channels = config.channels[i]
            level = AutoencoderLevel([width] + [channels] * (config.res_blocks + 1), config, config.attention[i])
            if i > 0:
                level.upsamplers.append(Upsample(channels))
            self.up_blocks.append(level)
            width = channels
        self.conv_norm_out = GroupNorm(config.norm_groups, width, eps=EPS)
        self.conv_out = Conv2d(width, config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(z))  # b c h w
        for level in self.up_blocks:
            h = level(h)  # b c 2h 2w
        return self.conv_out(nn.functional.silu(self.conv_norm_out(h)))  # type: ignore[no-any-return]  # b 3 H W


class Autoencoder(nn.Module):
    """E and D with their regulariser. Latents here are unscaled; the pipeline multiplies by its scale factor."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        moments = 2 if config.kind == "kl" else 1
        z, embed = config.z_channels, config.embed_dim
        self.encoder = Encoder(config)
        self.quant_conv = Conv2d(moments * z, moments * embed, 1) if config.quant_conv else nn.Identity()
        if config.kind == "vq":
            self.quantize = Quantizer(config.codebook, embed)
        self.post_quant_conv = Conv2d(embed, z, 1) if config.post_quant_conv else nn.Identity()
        self.decoder = Decoder(config)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance (clamped to [−30, 20]) of the KL posterior q(z|x); x is b 3 H W in [−1, 1]."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)  # b d h w each
        return mean, logvar.clamp(*LOGVAR)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode x (b 3 H W in [−1, 1]) to b d h w: VQ before quantisation; KL the mode, or a sample with `noise`."""
        return self.latent(self.encoder(x), noise)

    def latent(self, h: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return what `encode` gives, from the encoder's output."""
        if self.config.kind == "vq":
            return self.quant_conv(h)  # type: ignore[no-any-return]
        mean, logvar = self.quant_conv(h).chunk(2, dim=1)
        return mean if noise is None else torch.addcmul(mean, torch.exp(0.5 * logvar.clamp(*LOGVAR)), noise)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Decode z (b d h w) to b 3 H W, about [−1, 1]; the VQ decoder's first layer is the quantiser (App. G)."""
        return self.decoder(self.prepared(z, quantize))  # type: ignore[no-any-return]

    def prepared(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Return what the decoder reads: z quantised (VQ) and through `post_quant_conv`."""
        if self.config.kind == "vq" and quantize:
            z = self.quantize(z)  # b d h w
        return self.post_quant_conv(z)  # type: ignore[no-any-return]


class TinyBlock(nn.Module):
    """Three convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.conv(x) + x)


class TinyDecoder(nn.Module):
    """A distilled decoder for previews (O. B. Bohan's TAESD): f = 8, of latents as the UNet sees them, scaled."""

    def __init__(self, z_channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2d(z_channels, width, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [TinyBlock(width) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), Conv2d(width, width, 3, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers, TinyBlock(width), Conv2d(width, 3, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Decode z, b d h w, to b 3 H W, about [−1, 1]."""
        bounded = 3.0 * torch.tanh(z / 3.0)
        return 2.0 * self.layers(bounded) - 1.0  # type: ignore[no-any-return]
