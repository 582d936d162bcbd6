"""Conditioners τθ: all configs; the paper's own text transformer, class embedder and rescaler (§3.3, App. E.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.attention import SelfAttention
from models.networks.blocks import Embedding

Tokens: TypeAlias = tuple[Tensor, Tensor | None]  # token numbers and mask (1 at tokens, 0 at padding), both b n

CLIP_VOCABULARY = 49_408  # tokens that CLIP was trained with, the end token last


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """Shape of a text transformer, and what of it is read.

    `bert`: post-norm, token types, padding hidden where `masked`. `clip`: pre-norm, causal. Both are transformers'
    (`text_encoders`). `ldm`: the paper's x-transformers encoder, pre-norm, q/k/v without bias, padding takes part.
    The last three fields are of `clip` alone; the others' context is the last, normalised state.
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
    skip: int = 0  # layers behind the one whose output is the context
    final_norm: bool = True  # over the context
    pooled: int | None = None  # width of the vector that stands for the whole prompt, where the model reads one
    boxes: bool = False  # of `ldm`: tokens are corners and classes of boxes, not text

    @property
    def end_token(self) -> int:
        """The token that ends a prompt; those that a fine-tuning added have higher numbers."""
        return min(self.vocab_size, CLIP_VOCABULARY) - 1


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The towers that read a prompt, one or two: their contexts lie side by side (SDXL: CLIP ViT-L and ViT-bigG)."""

    towers: tuple[TowerConfig, ...]

    @property
    def width(self) -> int:
        """Width of the context."""
        return sum(tower.width for tower in self.towers)

    @property
    def pooled(self) -> int | None:
        """Width of the pooled vector, which at most one tower has."""
        return next((tower.pooled for tower in self.towers if tower.pooled is not None), None)

    @property
    def kind(self) -> Literal["bert", "clip", "ldm"]:
        """The kind of all towers."""
        return self.towers[0].kind


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What a CLIP tower is told beside tokens."""

    clip_skip: int | None = None  # the layer from the last whose output is the context, 1 the last; None: the model's
    vectors: Tensor | None = None  # k d, of token numbers from vocab_size on


class Encoded(NamedTuple):
    """What a prompt became."""

    context: Tensor  # b n d, read by cross-attention
    pooled: Tensor | None = None  # b p, the whole prompt in one vector


class TextTower(nn.Module, ABC):
    """One text transformer."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor | None = None, told: Told | None = None) -> Encoded:
        """Encode ids b n; `mask` b n is 1 at tokens and 0 at padding; `told` is for towers of CLIP."""


class TextEncoder(nn.Module):
    """Token numbers, by every tower's own tokenizer, to what the network reads of a prompt."""

    def __init__(self, config: TextConfig, towers: Sequence[TextTower]) -> None:
        super().__init__()
        self.config = config
        self.towers = nn.ModuleList(towers)

    def forward(self, tokens: Sequence[Tokens], told: Sequence[Told] | None = None) -> Encoded:
        """Encode token numbers and masks, both b n, of each tower, which is `told` more.

        Raises:
            ValueError: there are more or fewer of them than towers.
        """
        each = [None] * len(self.towers) if told is None else told
        parts: list[Encoded] = [tower(*own, more) for tower, own, more in zip(self.towers, tokens, each, strict=True)]
        pooled = next((part.pooled for part in parts if part.pooled is not None), None)
        if len(parts) == 1:
            return parts[0]
        return Encoded(torch.cat([part.context for part in parts], dim=2), pooled)


class LdmTextLayer(nn.Module):
    """Attention and a feed-forward layer, each normalised before and added after."""

    def __init__(self, config: TowerConfig) -> None:
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


class LdmTower(TextTower):
    """The paper's τθ, trained from scratch (App. E.2): the normalised last hidden state, padding takes part."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.tokens = Embedding(config.vocab_size, config.width)
        self.positions = Embedding(config.positions, config.width)
        self.layers = nn.ModuleList(LdmTextLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002 (padding is read)
        told: Told | None = None,  # noqa: ARG002
    ) -> Encoded:
        x: Tensor = self.tokens(ids) + self.positions.weight[: ids.shape[1]]  # b n d
        for layer in self.layers:
            x = layer(x)  # b n d
        return Encoded(self.norm(x))


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
