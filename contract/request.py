"""The resolved request: every parameter of a job, as it will run. One model a kind, with exactly that kind's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import Field, TypeAdapter, computed_field
from pydantic.json_schema import SkipJsonSchema

from contract.add_ons import AppliedControl, AppliedEmbedding, AppliedLora, Hires
from contract.base import Kind, Wire
from contract.lanes import Lane
from contract.prompts import PromptSyntax
from contract.samplers import Schedule, evaluations
from contract.uploads import Upload, control_name

OutputFormat: TypeAlias = Literal["png", "jpeg", "webp"]
MaskMode: TypeAlias = Literal["white", "black", "alpha", "auto"]
Determinism: TypeAlias = Literal["fast", "strict"]
Pair: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[float, float]
SEEDS = 2**32
SCORES = (6.0, 2.5)  # aesthetic scores of the prompt and of what guidance leads away from


def _unset(value: object) -> bool:
    """Tell a field that changes nothing, which isn't written: releases before it read the request."""
    return value is None


class Numerics(Wire):
    """What `strict` fixes for a job's life: equal numerics and build give equal bytes."""

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
    numerics: Numerics | None = Field(default=None, description="Set when a strict job first starts.")

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
        return 0.0, 1.0

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
    def run_steps(self) -> int:
        """Steps that are run, over all images: a strength < 1 leaves the last int(steps · strength), at least one."""
        start, end = self.span
        return max(1, int(self.steps * self.denoising_strength * (end - start))) * self.num_images

    @property
    def rows_per_call(self) -> int:
        """Rows of all images in one call while they are guided, or aren't at all."""
        return self.num_images * (2 if self.guided else 1)

    @property
    def rows(self) -> int:
        """Network evaluations of the whole job, the unit of queue estimates; with `guided_within` about as many."""
        calls = evaluations(self.sampler, self.run_steps // self.num_images) * self.num_images
        return calls + (round(calls * self._guided_share) if self.guided else 0)

    @property
    def _guided_share(self) -> float:
        """The share of the steps that are guided, were they evenly spread over the timesteps of this strength."""
        if self.guided_within is None:
            return 1.0
        low, high = self.guided_within
        return max(0.0, min(high, self.denoising_strength) - low) / self.denoising_strength

    def for_clients(self) -> Self:
        """Copy the request without where its uploads are stored."""
        out: dict[str, Any] = {"path": ""}
        changed: dict[str, Any] = {
            name: value.model_copy(update=out) for name, value in self if isinstance(value, Upload)
        }
        controls = [c.model_copy(update={"image": c.image.model_copy(update=out)}) for c in self.applied_controls]
        changed |= {"controls": tuple(controls)} if controls else {}
        return self.model_copy(update=changed) if changed else self

    def arguments(self) -> dict[str, Any]:
        """Dump as JSON for the RQ job."""
        return self.model_dump(mode="json", round_trip=True)


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
    clip_skip: int | None = Field(default=None, exclude_if=_unset)
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

    original_size: Pair | None = Field(default=None, exclude_if=_unset)
    crop: Pair | None = Field(default=None, exclude_if=_unset)
    target_size: Pair | None = Field(default=None, exclude_if=_unset)
    aesthetic_score: float | None = Field(default=None, exclude_if=_unset)
    negative_aesthetic_score: float | None = Field(default=None, exclude_if=_unset)
    guidance_rescale: float | None = Field(default=None, exclude_if=_unset)
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


class Txt2ImgRequest(DrawnRequest):
    """Text to image; with `hires` drawn over once it is enlarged (`contract.stages`)."""

    kind: Literal["txt2img"]
    denoising_end: float | None = Field(default=None, exclude_if=_unset)
    hires: Hires | None = Field(default=None, exclude_if=_unset)

    @property
    def span(self) -> Span:
        return 0.0, 1.0 if self.denoising_end is None else self.denoising_end

    @property
    def run_steps(self) -> int:
        return super().run_steps + (self.hires.run_steps * self.num_images if self.hires else 0)


class InpaintRequest(DrawnRequest):
    """Repaint the masked part of a picture."""

    kind: Literal["inpaint"]
    image: Upload
    mask: Upload
    mask_mode: MaskMode = "white"
    feather: int = 0
    strength: float = 1.0

    @property
    def denoising_strength(self) -> float:
        return self.strength


class UpscaleRequest(PromptedRequest):
    """Super-resolution; `noise_level` is null for models that don't read one."""

    kind: Literal["upscale"]
    image: Upload
    noise_level: int | None = None

    @property
    def class_label(self) -> int | None:
        return self.noise_level


class Img2ImgRequest(DrawnRequest):
    """Draw over a picture; with `denoising_start` finish one that another model has begun."""

    kind: Literal["img2img"]
    image: Upload
    strength: float = 1.0
    denoising_start: float | None = Field(default=None, exclude_if=_unset)
    denoising_end: float | None = Field(default=None, exclude_if=_unset)

    @property
    def span(self) -> Span:
        return self.denoising_start or 0.0, 1.0 if self.denoising_end is None else self.denoising_end

    @property
    def denoising_strength(self) -> float:
        return self.strength


class Class2ImgRequest(GuidedRequest):
    """A picture of a class."""

    kind: Literal["class2img"]
    class_id: int

    @property
    def class_label(self) -> int | None:
        return self.class_id


class Semantic2ImgRequest(BaseRequest):
    """A picture from a label map."""

    kind: Literal["semantic2img"]
    image: Upload


class Layout2ImgRequest(BaseRequest):
    """A picture from boxes with their classes, as the numbers that the network reads."""

    kind: Literal["layout2img"]
    tokens: tuple[int, ...]


JobRequest: TypeAlias = Annotated[
    Txt2ImgRequest
    | InpaintRequest
    | UpscaleRequest
    | Img2ImgRequest
    | Class2ImgRequest
    | Semantic2ImgRequest
    | Layout2ImgRequest,
    Field(discriminator="kind"),
]
_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)
REQUESTS: dict[str, type[BaseRequest]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(get_args(JobRequest)[0])
}


def parse_request(values: object) -> JobRequest:
    """Make the request that `values` describe, of the kind that they name.

    Raises:
        ValidationError: `kind` is unknown, or a field is missing, wrong or not of this kind.
    """
    return _REQUEST.validate_python(values)
