"""What resolved requests of several kinds have in common."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeAlias

from pydantic import Field, computed_field
from pydantic.json_schema import SkipJsonSchema

from contract.add_ons import CONTROL_ROW, AppliedControl, AppliedEmbedding, AppliedLora
from contract.base import Kind, Lane, Recorded, Wire
from contract.prompts import PromptSyntax
from contract.samplers import MOST_TIMESTEPS, Schedule, evaluations
from contract.uploads import Upload, control_name

OutputFormat: TypeAlias = Literal["png", "jpeg", "webp"]
MaskMode: TypeAlias = Literal["white", "black", "alpha", "auto"]
Determinism: TypeAlias = Literal["fast", "strict"]
Pair: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[float, float]
SEEDS = 2**32
MAX_IMAGES = 16  # of a job
WHOLE: Span = (0.0, 1.0)
SCORES = (6.0, 2.5)  # aesthetic scores of the prompt and of what guidance leads away from


def unset(value: object) -> bool:
    """Tell a field that changes nothing, which isn't written: releases before it read the request."""
    return value is None


class Numerics(Recorded):
    """What `strict` fixes as soon as anything of a job is kept: equal numerics and build give equal bytes."""

    device: str
    dtype: str
    threads: int
    rows: int
    memory_format: str
    compiled: bool
    torch: str


class BaseRequest(Wire):
    """What jobs of every kind have; image k has seed (seed + k) mod 2³².

    The properties below the fields stand for what only some kinds have, with the value that changes nothing.
    """

    kind: Kind
    model: str
    width: int
    height: int
    steps: int
    sampler: str
    eta: float = 0.0
    schedule: Schedule | None = Field(default=None, exclude_if=lambda schedule: schedule is None)
    timesteps: tuple[int, ...] | None = Field(default=None, exclude_if=lambda timesteps: timesteps is None)
    seed: int = Field(ge=0, lt=SEEDS)
    num_images: int = 1
    output_format: OutputFormat = "png"
    priority: Lane = "interactive"
    deadline_ms: int | None = None
    determinism: Determinism = "fast"
    preview_every: int = 0
    webhook_url: str | None = Field(default=None, description="Where the gateway tells of the job's end.")
    numerics: Numerics | None = Field(
        default=None, description="Of a strict job that has started: what it computes with."
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seeds(self) -> list[int]:
        return [(self.seed + k) % SEEDS for k in range(self.num_images)]

    @classmethod
    def file_names(cls) -> tuple[str, ...]:
        """Name the fields that are uploads, in their order."""
        return tuple(name for name, field in cls.model_fields.items() if field.annotation is Upload)

    @property
    def files(self) -> dict[str, Upload]:
        """Uploads by the name of their field; those of controls by `control_name`."""
        own = {name: value for name, value in self if isinstance(value, Upload)}
        return own | {control_name(i): control.image for i, control in enumerate(self.applied_controls)}

    @property
    def text(self) -> str:
        """What the picture shows, in words."""
        return ""

    @property
    def negative_text(self) -> str:
        """What it must not show, in words."""
        return ""

    @property
    def applied_loras(self) -> tuple[AppliedLora, ...]:
        """What is added to the networks' weights for this job."""
        return ()

    @property
    def applied_controls(self) -> tuple[AppliedControl, ...]:
        """The ControlNets that lead this job by pictures."""
        return ()

    @property
    def syntax(self) -> PromptSyntax:
        """How its texts are read."""
        return "plain"

    @property
    def skip(self) -> int | None:
        """The layer from the last, 1, whose output is what a text tower made of them; None: the model's own."""
        return None

    @property
    def applied_embeddings(self) -> tuple[AppliedEmbedding, ...]:
        """What its texts name that vectors stand for."""
        return ()

    @property
    def guidance(self) -> float:
        """How strongly the condition leads; 1, and 0 too: no guidance."""
        return 1.0

    @property
    def image_guidance(self) -> float:
        """How strongly a guided picture keeps to the one that it changes; 1: no more than the network does itself."""
        return 1.0

    @property
    def guided_within(self) -> tuple[float, float] | None:
        """Shares of the training timesteps, 0 clean and 1 noise, between which the condition leads; None: always."""
        return None

    @property
    def denoising_strength(self) -> float:
        """How much of an uploaded picture is forgotten; 1: all of it."""
        return 1.0

    @property
    def span(self) -> Span:
        """The part of the way from noise, 0, to the picture, 1, that this job goes."""
        return WHOLE

    @property
    def told_sizes(self) -> tuple[int, int, int, int, int, int]:
        """What SDXL is told: height and width of the original, top and left of the crop, height and width to aim at."""
        return self.height, self.width, 0, 0, self.height, self.width

    @property
    def scores(self) -> tuple[float, float]:
        """What SDXL's refiner is told of how good the picture is, and of what guidance leads away from."""
        return SCORES

    @property
    def rescale(self) -> float:
        """How much of the contrast that guidance adds is taken back."""
        return 0.0

    @property
    def class_label(self) -> int | None:
        """The number that the network reads beside t: a class, or the level of noise on a small picture."""
        return None

    @property
    def guided(self) -> bool:
        """Whether each step needs two rows, with and without the condition."""
        return self.guidance not in (0.0, 1.0)

    @property
    def null_rows(self) -> int:
        """Rows of a guided step beside its own: without the text, and where the picture leads too, without either."""
        return 0 if not self.guided else 1 if self.image_guidance == 1.0 else 2

    @property
    def run_steps(self) -> int:
        """Steps that are run, over all images: a strength < 1 leaves the last int(steps · strength), at least one.

        Of a part of the way it is how many they would be on evenly spread timesteps, or on a list out of 1,000; where
        a schedule or a checkpoint spaces them otherwise, the worker that plans the job tells the true number.
        """
        skipped = self._skipped
        if self.span == WHOLE:
            return (self.steps - skipped) * self.num_images
        if self.timesteps is not None:
            return max(1, len(self.run_timesteps)) * self.num_images
        begun, ended = (round(self.steps * part) for part in self.span)
        return max(1, ended - max(begun, skipped)) * self.num_images

    @property
    def run_timesteps(self) -> tuple[int, ...]:
        """Those of `timesteps` that are run: what strength and span leave of the list."""
        first, last = (round((1.0 - part) * MOST_TIMESTEPS) for part in self.span)
        left = (self.timesteps or ())[self._skipped :]
        return tuple(t for t in left if last <= t < first or self.span == WHOLE)

    @property
    def _skipped(self) -> int:
        return self.steps - max(1, int(self.steps * self.denoising_strength))

    @property
    def rows_per_call(self) -> int:
        """Rows of all images in one call while they are guided, or aren't at all."""
        return self.num_images * (1 + self.null_rows)

    @property
    def rows(self) -> int:
        """Network evaluations of the whole job, the unit of queue estimates; with `guided_within` about as many.

        One of a ControlNet counts as CONTROL_ROW of the UNet's.
        """
        calls = evaluations(self.sampler, self.run_steps // self.num_images) * self.num_images
        rows = calls + self.null_rows * round(calls * self.guided_share)
        return rows + round(CONTROL_ROW * rows * sum(control.end - control.start for control in self.applied_controls))

    @property
    def guided_share(self) -> float:
        """The share of the steps that are guided, were they evenly spread over the timesteps that are gone through."""
        if self.guided_within is None:
            return 1.0
        (low, high), (start, end) = self.guided_within, self.span
        noisiest, cleanest = min(self.denoising_strength, 1.0 - start), 1.0 - end
        if noisiest <= cleanest:
            return 1.0  # no step is between: the worker refuses it
        return max(0.0, min(high, noisiest) - max(low, cleanest)) / (noisiest - cleanest)

    def for_clients(self) -> Self:
        """Copy the request without where its uploads are stored."""
        out: dict[str, Any] = {"path": ""}
        changed: dict[str, Any] = {
            name: value.model_copy(update=out) for name, value in self if isinstance(value, Upload)
        }
        controls = [c.model_copy(update={"image": c.image.model_copy(update=out)}) for c in self.applied_controls]
        changed |= {"controls": tuple(controls)} if controls else {}
        return self.model_copy(update=changed) if changed else self


class GuidedRequest(BaseRequest):
    """What the kinds have that can be led by a condition."""

    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = Field(default=None, exclude_if=lambda interval: interval is None)
    # The network reads guidance_scale itself, as latent consistency models do: one row a step.
    guidance_embedded: SkipJsonSchema[bool] = Field(default=False, exclude_if=lambda embedded: not embedded)

    @property
    def guidance(self) -> float:
        return self.guidance_scale

    @property
    def guided(self) -> bool:
        return not self.guidance_embedded and super().guided

    @property
    def guided_within(self) -> tuple[float, float] | None:
        return self.guidance_interval


class PromptedRequest(GuidedRequest):
    """What the kinds have that follow a text."""

    prompt: str = ""
    negative_prompt: str | None = Field(default="", description="null: none, for models that tell none from empty.")
    loras: tuple[AppliedLora, ...] = Field(default=(), exclude_if=lambda loras: not loras)
    prompt_syntax: PromptSyntax = Field(default="plain", exclude_if=lambda syntax: syntax == "plain")
    clip_skip: int | None = Field(default=None, exclude_if=unset)
    embeddings: tuple[AppliedEmbedding, ...] = Field(default=(), exclude_if=lambda embeddings: not embeddings)

    @property
    def applied_loras(self) -> tuple[AppliedLora, ...]:
        return self.loras

    @property
    def syntax(self) -> PromptSyntax:
        return self.prompt_syntax

    @property
    def skip(self) -> int | None:
        return self.clip_skip

    @property
    def applied_embeddings(self) -> tuple[AppliedEmbedding, ...]:
        return self.embeddings

    @property
    def text(self) -> str:
        return self.prompt

    @property
    def negative_text(self) -> str:
        return self.negative_prompt or ""


class DrawnRequest(PromptedRequest):
    """What the kinds have that draw a picture by a text; most of it is read by models of SDXL alone.

    Sizes are width and height, a crop is its left and top.
    """

    original_size: Pair | None = Field(default=None, exclude_if=unset)
    crop: Pair | None = Field(default=None, exclude_if=unset)
    target_size: Pair | None = Field(default=None, exclude_if=unset)
    aesthetic_score: float | None = Field(default=None, exclude_if=unset)
    negative_aesthetic_score: float | None = Field(default=None, exclude_if=unset)
    guidance_rescale: float | None = Field(default=None, exclude_if=unset)
    controls: tuple[AppliedControl, ...] = Field(default=(), exclude_if=lambda controls: not controls)

    @property
    def applied_controls(self) -> tuple[AppliedControl, ...]:
        return self.controls

    @property
    def told_sizes(self) -> tuple[int, int, int, int, int, int]:
        own = (self.width, self.height)
        (w, h), (left, top), (target_w, target_h) = (
            self.original_size or own,
            self.crop or (0, 0),
            self.target_size or own,
        )
        return h, w, top, left, target_h, target_w

    @property
    def scores(self) -> tuple[float, float]:
        given = (self.aesthetic_score, self.negative_aesthetic_score)
        score, negative = (default if own is None else own for own, default in zip(given, SCORES, strict=True))
        return score, negative

    @property
    def rescale(self) -> float:
        return self.guidance_rescale or 0.0
