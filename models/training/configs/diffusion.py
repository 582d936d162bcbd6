"""What runs of the second stage are told: latent diffusion of any condition, and super-resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from models.networks.unet import UNetConfig
from models.samplers.compile import SAMPLERS
from models.schedule import NoiseSchedule, Prediction, ScheduleConfig
from models.training.configs.base import RunConfig, Share, Side, Strict, check_levels

CARD_STEPS = 20
SCRATCH = ("width", "layers", "heads", "window")  # of the paper's transformer


class UNetShape(Strict):
    """Shape of a UNet; channels in and out follow from first stage and conditioning."""

    channels: tuple[int, ...] = Field(min_length=1, max_length=8)
    res_blocks: int = Field(default=1, ge=1)
    attention: tuple[int, ...] = ()  # levels, counted from 0, that attend
    heads: int | tuple[int, ...] = 8  # of all levels, or of each; the middle has the last level's
    mid_attention: bool = True
    depth: int = Field(default=1, ge=1)  # transformer blocks
    norm_groups: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> UNetShape:
        check_levels(self.attention, len(self.channels))
        heads = self._heads()
        if len(heads) != len(self.channels) or min(heads) < 1:
            raise ValueError(f"heads is {self.heads}; must be a number from 1 on, or one for each of channels")
        for name, divisors in (("norm_groups", (self.norm_groups,) * len(heads)), ("heads", heads)):
            wrong = next(((c, by) for c, by in zip(self.channels, divisors, strict=True) if c % by), None)
            if wrong is not None:
                raise ValueError(f"channels has {wrong[0]}; {name} is {wrong[1]} and must divide every level")
        return self

    def _heads(self) -> tuple[int, ...]:
        return (self.heads,) * len(self.channels) if isinstance(self.heads, int) else self.heads

    def network(self, in_channels: int, out_channels: int, context_dim: int | None) -> UNetConfig:
        """Return the network's config."""
        levels = len(self.channels)
        return UNetConfig(
            in_channels=in_channels,
            out_channels=out_channels,
            channels=self.channels,
            res_blocks=self.res_blocks,
            attention=tuple(i in self.attention for i in range(levels)),
            heads=self._heads(),
            mid_heads=self._heads()[-1],
            mid_attention=self.mid_attention,
            context_dim=context_dim,
            depth=(self.depth,) * levels if context_dim is not None else (),
            only_cross_attention=(False,) * levels if context_dim is not None else (),
            norm_groups=self.norm_groups,
        )


class ScheduleShape(Strict):
    """The noise schedule; sampling steps trail (Lin et al. 2024), so that the first one starts at pure noise."""

    beta_schedule: Literal["scaled_linear", "linear", "sqrt", "cosine"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    timesteps: int = Field(default=1000, ge=2)  # one would be pure noise at zero terminal SNR
    prediction: Prediction = "v"
    zero_terminal_snr: bool = True

    @model_validator(mode="after")
    def _learnable(self) -> ScheduleShape:
        if self.prediction == "eps" and self.zero_terminal_snr:
            raise ValueError("eps says nothing at zero terminal SNR; v does, or zero_terminal_snr: false")
        return self

    def schedule(self) -> NoiseSchedule:
        """Return the schedule."""
        return NoiseSchedule(
            ScheduleConfig(
                timesteps=self.timesteps,
                beta_schedule=self.beta_schedule,
                beta_start=self.beta_start,
                beta_end=self.beta_end,
                prediction=self.prediction,
                zero_terminal_snr=self.zero_terminal_snr,
                spacing="trailing",
                steps_offset=0,
                set_alpha_to_one=True,
            )
        )


class TextCondition(Strict):
    """Captions through cross-attention (paper §3.3): an encoder of a checkpoint, or the paper's own from scratch."""

    kind: Literal["text"]
    encoder: Path | None = None  # a checkpoint whose text encoder and tokenizer are used
    width: int = Field(default=256, ge=8)  # of the paper's transformer, where no encoder is given
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=8, ge=1)
    window: int = Field(default=32, ge=4)  # tokens
    trained: bool = False  # jointly with the UNet (paper Eq. 3); else frozen, and its outputs are encoded once

    @model_validator(mode="after")
    def _learnt(self) -> TextCondition:
        if self.encoder is None and not self.trained:
            raise ValueError("trained is false; a text encoder from scratch must be trained, or name an encoder")
        return self


class ClassCondition(Strict):
    """Labels as one context token; the embedder is trained with the UNet, its last class is no class."""

    kind: Literal["class"]
    width: int = Field(default=256, ge=8)


class MapCondition(Strict):
    """Label maps, rescaled and concatenated (paper §4.3.2); the rescaler is trained with the UNet."""

    kind: Literal["map"]
    classes: int = Field(ge=2, le=256)  # numbered from 0, a byte each
    channels: int = Field(default=3, ge=1)


Condition = Annotated[TextCondition | ClassCondition | MapCondition, Field(discriminator="kind")]


class CacheConfig(Strict):
    """Where latents and texts are kept once they are encoded, and how often each picture is drawn for it."""

    folder: Path
    variants: int = Field(default=1, ge=1)
    chunk: int = Field(default=16, ge=1)  # pictures encoded at a time


def _known_sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"must be one of {', '.join(SAMPLERS)}")
    return name


class CardConfig(Strict):
    """What the trained checkpoint's card says that weights don't tell."""

    description: str = ""
    licence: str = "unknown"
    attribution: tuple[str, ...] = ()
    steps: int | None = Field(default=None, ge=1, le=1000)  # none: 20, or all timesteps where there are fewer
    guidance_scale: float = Field(default=4.0, ge=0, le=50)
    sampler: Annotated[str, AfterValidator(_known_sampler)] = "ddim"


class LatentRun(RunConfig):
    """What learns on encoded latents: timestep weights, cache, sample grids."""

    min_snr: float | None = Field(
        default=5.0, gt=0
    )  # γ of min-SNR weights (Hang et al. 2023); none: all timesteps alike
    # The least that a timestep weighs: min-SNR gives pure noise, where sampling starts, 0 at zero terminal SNR. None:
    # 0.05 there, else 0.
    min_weight: Share | None = None
    cache: CacheConfig
    sample_steps: int = Field(default=12, ge=1, le=1000)
    guidance_scale: float = Field(default=4.0, ge=0)  # of the sample grids
    prompts: tuple[str, ...] = ()  # of the sample grids; none: captions of the data
    save_dtype: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _varies(self) -> LatentRun:
        frozen = "flip" if self.data.flip else "crop" if self.data.crop == "random" else None
        if frozen is not None and self.cache.variants == 1:
            detail = (
                f"data.{frozen} is {getattr(self.data, frozen)}; cache.variants is 1, so that each picture would be "
            )
            raise ValueError(f"{detail}drawn once and look the same in the whole run; 4 draw four of each")
        return self

    def unread(self) -> dict[str, str]:
        return {"min_weight": "min_snr is null, which weighs all timesteps alike"} if self.min_snr is None else {}


class DiffusionRun(LatentRun):
    """Stage 2 (paper §3.2), less what it is conditioned on."""

    first_stage: Path  # a run's first_stage folder, or a checkpoint
    unet: UNetShape
    schedule: ScheduleShape = ScheduleShape()
    start_from: Path | None = None  # a checkpoint whose fitting UNet weights are taken over
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _samples(self) -> DiffusionRun:
        for name, steps in (("sample_steps", self.sample_steps), ("card.steps", self.card_steps)):
            if steps > self.schedule.timesteps:
                raise ValueError(f"{name} is {steps}; schedule.timesteps is {self.schedule.timesteps}")
        return self

    @property
    def card_steps(self) -> int:
        """How many sampling steps the card proposes."""
        return self.card.steps or min(CARD_STEPS, self.schedule.timesteps)


class Conditioned(Strict):
    """How often what a run is conditioned on is left out."""

    drop: Share = 0.1  # of the conditions, for classifier-free guidance
    full_mask: Share = 0.45  # of the samples of an SD inpainting model that are masked wholly


class LdmRun(DiffusionRun, Conditioned):
    """Latent diffusion: text, classes, label maps or nothing; with or without a masked picture."""

    condition: Condition | None = None
    concat: Literal["mask-latent", "latent-mask"] | None = None  # inpainting, as SD or as LDM has it

    @model_validator(mode="after")
    def _fits(self) -> LdmRun:
        if isinstance(self.condition, MapCondition) and self.concat is not None:
            raise ValueError(f"concat is {self.concat}; label maps are concatenated themselves")
        if isinstance(self.condition, MapCondition) and self.data.compose is not None:
            raise ValueError("data.compose is given; composed pictures have no label map, which condition map reads")
        if isinstance(self.condition, ClassCondition) and self.concat is not None:
            raise ValueError(f"concat is {self.concat}; no request asks for a class inside a mask")
        compose = self.data.compose
        if isinstance(self.condition, ClassCondition) and compose is not None and compose.scenes:
            detail = "two things side by side have two labels, of which condition class reads one; scenes: 0 makes none"
            raise ValueError(f"data.compose.scenes is {compose.scenes}; {detail}")
        if self.concat == "latent-mask" and self.condition is not None:
            raise ValueError("concat latent-mask is LDM's inpainting, which has no condition; use mask-latent")
        return self

    @model_validator(mode="after")
    def _conditioned(self) -> LdmRun:
        given, attends = self.condition, self.unet.attention or self.unet.mid_attention
        if isinstance(given, TextCondition | ClassCondition) and not attends:
            detail = f"unet.attention is empty and unet.mid_attention false; condition {given.kind} is read where the"
            raise ValueError(f"{detail} UNet attends, which must be somewhere")
        return self

    def unread(self) -> dict[str, str]:
        found, given = super().unread(), self.condition
        if not isinstance(given, TextCondition):
            found["prompts"] = "no condition text reads them"
        elif given.encoder is not None:
            found |= {f"condition.{name}": "condition.encoder has its own" for name in SCRATCH}
        if given is None or isinstance(given, MapCondition):
            found["drop"] = "there is no condition text or class to be left out"
        if self.concat != "mask-latent":
            found["full_mask"] = "concat isn't mask-latent"
        return found


class UpscalerRun(DiffusionRun):
    """×f super-resolution from the small picture concatenated (paper §4.4); pairs as SR3 makes them, by bicubic."""

    crops: tuple[Side, ...] = ()  # latent pixels a side, one drawn for each step; none: whole pictures
    low_res_noise: float = Field(default=0.04, ge=0)  # largest deviation of noise on the small picture
    noisy: Share = 0.4  # of the samples that get it

    def unread(self) -> dict[str, str]:
        return {**super().unread(), "prompts": "an upscaler reads no text"}


class LoraRun(LatentRun, Conditioned):
    """Low-rank changes (LoRA, Hu et al. 2021) of a text model's layers, on captions; its own weights stay."""

    model: Path  # the checkpoint
    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float | None = Field(default=None, gt=0)  # the product is scaled by alpha / rank; none: by 1
    # attention: blocks of the UNet that attend, with their feed-forward, as kohya's scripts have it, and attention in
    # the text towers; linear: all linear layers; all: convolutions, too
    targets: Literal["attention", "linear", "all"] = "attention"
    text: bool = False  # the text towers, too
    layout: Literal["kohya", "peft"] = "kohya"  # how the file names its layers
    trigger: str = ""  # what in captions calls for it, for its card
