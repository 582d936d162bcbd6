"""Conditioners τθ: all configs; the paper's own text transformer, class embedder and rescaler (§3.3, App. E.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.attention import SelfAttention
from models.networks.blocks import Embedding


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Shape of a text transformer.

    `bert`: post-norm, token types, padding hidden where `masked`. `clip`: pre-norm, causal. Both are transformers'
    (`text_encoders`). `ldm`: the paper's x-transformers encoder, pre-norm, q/k/v without bias, padding takes part.
    """

    kind: Literal["bert", "clip", "ldm"]
    vocab_size: int
    width: int
    layers: int
    heads: int
    head_dim: int
    mlp: int
    positions: int
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    norm_eps: float = 1e-5
    masked: bool = False


class TextEncoder(nn.Module, ABC):
    """Token numbers to the sequence that cross-attention reads."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return b n d of ids b n; `mask` b n is 1 at tokens and 0 at padding."""


class LdmTextLayer(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added after."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.activation = config.activation
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = SelfAttention(width, config.heads, head_dim=config.head_dim)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.fc1 = nn.Linear(width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))  # b n c
        h = self.fc1(self.norm2(x))  # b n m
        h = h * torch.sigmoid(1.702 * h) if self.activation == "quick_gelu" else F.gelu(h)
        return x + self.fc2(h)  # type: ignore[no-any-return]


class LdmTextEncoder(TextEncoder):
    """The paper's τθ, trained from scratch (App. E.2): the normalised last hidden state, padding takes part."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.tokens = Embedding(config.vocab_size, config.width)
        self.positions = Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(LdmTextLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 (padding is read)
        x: Tensor = self.tokens(ids) + self.positions.weight[: ids.shape[1]]  # b n d
        for layer in self.layers:
            x = layer(x)  # b n d
        return self.norm(x)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class ClassConfig:
    """Class labels as one context token; the last class is the null class of guidance (paper App. C)."""

    classes: int
    width: int


class ClassEmbedder(nn.Module):
    """Label b → context b 1 d."""

    def __init__(self, config: ClassConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.classes, config.width)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding(labels)[:, None, :]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class RescalerConfig:
    """Label maps, halved `stages` times and mixed to `out_channels` for concatenation."""

    in_channels: int
    out_channels: int | None  # None: no 1×1 convolution
    stages: int
    multiplier: float = 0.5
    method: Literal["nearest", "bilinear", "bicubic", "area"] = "bilinear"
    bias: bool = False


class SpatialRescaler(nn.Module):
    """One-hot label map b k H W → b c h w (paper §4.3.2, semantic synthesis)."""

    def __init__(self, config: RescalerConfig) -> None:
        super().__init__()
        self.config = config
        if config.out_channels is not None:
            self.channel_mapper = nn.Conv2d(config.in_channels, config.out_channels, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.config.stages):
            x = F.interpolate(x, scale_factor=self.config.multiplier, mode=self.config.method)
        return self.channel_mapper(x) if self.config.out_channels is not None else x


Conditioner: TypeAlias = TextConfig | ClassConfig | RescalerConfig
ConditionerModule: TypeAlias = TextEncoder | ClassEmbedder | SpatialRescaler
