"""Attention over sequences and over feature maps: layers of the paper's τθ, UNet and first stages (§3.3, App. E)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.networks.blocks import GroupNorm
from models.networks.layers import Linear


class SelfAttention(nn.Module):
    """Softmax attention of tokens with themselves; q, k and v are one matrix product.

    Rows of `to_qkv` are laid out [q | k | v], each split into heads.
    """

    def __init__(self, channels: int, heads: int, *, head_dim: int | None = None, bias: bool = False) -> None:
        super().__init__()
        inner = heads * (head_dim or channels // heads)
        self.heads = heads
        self.to_qkv = Linear(channels, 3 * inner, bias=bias)
        self.to_out = Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.to_qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v)  # b h n d
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))  # type: ignore[no-any-return]  # b n c


class CrossAttention(nn.Module):
    """Softmax attention from feature tokens to the conditioning τθ(y) (paper eq. for Q, K, V in §3.3)."""

    def __init__(self, channels: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_kv = Linear(context_dim, 2 * channels, bias=False)
        self.to_out = Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = rearrange(self.to_q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.to_kv(context), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v)  # b h n d
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))  # type: ignore[no-any-return]  # b n c


class GEGLU(nn.Module):
    """Feed-forward of a transformer block: (x W₁) · GELU(x W₂), then back to the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = Linear(channels, 2 * 4 * channels)
        self.proj_out = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj_in(x).chunk(2, dim=-1)  # b n 4c
        return self.proj_out(x * F.gelu(gate))  # type: ignore[no-any-return]  # b n c


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each pre-normed and residual (the code's order, not Tab. 16's).

    With `only_cross_attention` the first attention reads the context, too.
    """

    def __init__(self, channels: int, context_dim: int, heads: int, only_cross_attention: bool) -> None:
        super().__init__()
        self.only_cross_attention = only_cross_attention
        self.norm1 = nn.LayerNorm(channels)
        self.attn1: nn.Module = (
            CrossAttention(channels, context_dim, heads) if only_cross_attention else SelfAttention(channels, heads)
        )
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_dim, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = GEGLU(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + (self.attn1(h, context) if self.only_cross_attention else self.attn1(h))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))  # type: ignore[no-any-return]  # b n c


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, conditioned by cross-attention (paper §3.3, Tab. 16).

    The projections are 1×1 convolutions in old checkpoints and linear layers in SD 2; both are the same linear map.
    """

    def __init__(
        self, channels: int, context_dim: int, heads: int, depth: int, groups: int, only_cross_attention: bool = False
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, heads, only_cross_attention) for _ in range(depth)
        )
        self.proj_out = Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h: Tensor = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        for block in self.transformer_blocks:
            h = block(h, context)  # b n c
        h = rearrange(self.proj_out(h), "b (h w) c -> b c h w", h=x.shape[2])
        return x + h


class AttentionBlock(nn.Module):
    """Unconditional self-attention over the pixels of a feature map, normalised unless `groups` is None."""

    def __init__(self, channels: int, heads: int, groups: int | None, eps: float) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps=eps) if groups is not None else nn.Identity()
        self.attention = SelfAttention(channels, heads, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.attention(rearrange(self.group_norm(x), "b c h w -> b (h w) c"))
        h = rearrange(h, "b (h w) c -> b c h w", h=x.shape[2])
        return x + h
