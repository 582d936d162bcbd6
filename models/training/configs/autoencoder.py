"""What a run of the first stage is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from models.networks.autoencoder import AutoencoderConfig
from models.training.configs.base import RunConfig, Share, Side, Strict, check_levels

SMALLEST = 32  # pixels a side that leave the patch discriminator a patch


class AutoencoderShape(Strict):
    """Shape of a first stage, f = 2^(len(channels) − 1); per-level lists run from full resolution to the latent's."""

    kind: Literal["kl", "vq"] = "kl"
    channels: tuple[int, ...] = Field(min_length=1, max_length=8)
    z_channels: int = Field(ge=1)
    res_blocks: int = Field(default=1, ge=1)
    attention: tuple[int, ...] = ()  # levels, counted from 0, that attend
    mid_attention: bool = False
    norm_groups: int = Field(default=32, ge=1)
    codebook: int = Field(default=0, ge=0)  # entries, VQ only

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderShape:
        check_levels(self.attention, len(self.channels))
        wrong = next((c for c in self.channels if c % self.norm_groups), None)
        if wrong is not None:
            raise ValueError(f"channels has {wrong}; norm_groups is {self.norm_groups} and must divide every level")
        if (self.kind == "vq") != (self.codebook > 0):
            raise ValueError(f"codebook is {self.codebook}; a vq first stage needs entries and a kl one has none")
        return self

    def network(self) -> AutoencoderConfig:
        """Return the network's config."""
        levels = range(len(self.channels))
        return AutoencoderConfig(
            kind=self.kind,
            channels=self.channels,
            stem=self.channels[0],
            z_channels=self.z_channels,
            embed_dim=self.z_channels,
            res_blocks=self.res_blocks,
            attention=tuple(i in self.attention for i in levels),
            mid_attention=self.mid_attention,
            norm_groups=self.norm_groups,
            codebook=self.codebook,
        )


class LossConfig(Strict):
    """Weights of the first stage's losses (paper App. G): of reconstruction, patches, regulariser.

    Reconstruction losses are means over a picture's 3·H·W values, `kl` weighs a sum over its latent, and both are means
    over the batch. LDM's code sums the former, too, so that its `kl_weight` w is w / (3·H·W) here: 1e-6 on 256 pixels
    is 5e-12, and the default holds latents about 200,000 times as strongly to N(0, 1).
    """

    l1: float = Field(default=1.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    edge: float = Field(default=0.0, ge=0)  # L1 of the differences between neighbours: keeps outlines sharp
    perceptual: float = Field(default=1.0, ge=0)
    adversarial: float = Field(default=0.5, ge=0)  # times the adaptive weight
    adversarial_from: Share = 0.5  # of the run: the discriminator begins
    adversarial_warmup: Share = 0.1  # of the run: from there to the full weight
    kl: float = Field(default=1e-6, ge=0)
    unit: float = Field(default=0.01, ge=0)  # holds continuous VQ latents at mean 0 and variance 1


class CodebookConfig(Strict):
    """How a codebook is learnt without collapsing.

    Until `continuous` of the run nothing is quantised, and no first stage is written; then k-means on the encoder's
    outputs fills the codebook. From there either the decoder alone learns to read codes, or all of it, straight
    through. With `start_from`, `continuous: 0` keeps that one's codes, and more makes new ones.
    """

    continuous: Share = 0.5
    then: Literal["decoder", "all"] = "decoder"
    noise: float = Field(
        default=0.0, ge=0
    )  # deviation of noise on latents before they are quantised: samples aren't exact
    commitment: float = Field(default=0.25, ge=0)
    restart_every: int = Field(
        default=100, ge=1
    )  # steps in which a code must be used, or it moves to an encoder's output
    vectors: int = Field(default=200_000, ge=1)  # that k-means sees
    rounds: int = Field(default=12, ge=1)


class FeatureConfig(Strict):
    """The network of the perceptual loss: LPIPS on VGG16 where weights are given, else a classifier of the data."""

    vgg: Path | None = None  # torchvision's VGG16 weights
    lpips: Path | None = None  # LPIPS's linear heads of it
    steps: int = Field(default=500, ge=1)  # that the classifier is trained
    batch: int = Field(default=32, ge=1)
    width: int = Field(default=32, ge=4, multiple_of=4)  # normed in four groups

    @model_validator(mode="after")
    def _both(self) -> FeatureConfig:
        if (self.vgg is None) != (self.lpips is None):
            raise ValueError("vgg and lpips belong together: the network's weights and the heads on it")
        return self


class AutoencoderRun(RunConfig):
    """Stage 1 (paper §3.1)."""

    autoencoder: AutoencoderShape
    losses: LossConfig = LossConfig()
    codebook: CodebookConfig = CodebookConfig()
    features: FeatureConfig = FeatureConfig()
    crops: tuple[Side, ...] = ()  # pixels a side, one drawn for each step; none: whole pictures
    start: Literal["random", "pass-through"] = "random"
    start_from: Path | None = None  # a first stage or checkpoint to go on from
    latent_noise: float = Field(default=0.0, ge=0)  # deviation of noise on latents before they are decoded

    @model_validator(mode="after")
    def _divisible(self) -> AutoencoderRun:
        f = 2 ** (len(self.autoencoder.channels) - 1)
        wrong = next((size for size in (self.data.size, *self.crops) if size % f or size > self.data.size), None)
        if wrong is not None:
            raise ValueError(
                f"crops and data.size must be multiples of {f}, the autoencoder's factor, and crops at most data.size "
                f"({self.data.size}); {wrong} isn't"
            )
        smallest = min(self.crops, default=self.data.size)
        if self.losses.adversarial and smallest < SMALLEST:
            raise ValueError(f"a picture or crop has {smallest} pixels; the discriminator sees {SMALLEST} at least")
        return self

    @model_validator(mode="after")
    def _coded(self) -> AutoencoderRun:
        given = self.codebook.continuous
        if self.autoencoder.kind == "kl":
            return self
        if round(given * self.steps) >= self.steps:
            raise ValueError(f"codebook.continuous is {given}; no step of {self.steps} is left to learn codes in")
        if self.start_from is not None and "continuous" not in self.codebook.model_fields_set:
            detail = "codebook.continuous isn't said; 0 keeps the codes of start_from, and more makes new ones after"
            raise ValueError(f"{detail} so much of the run")
        return self
