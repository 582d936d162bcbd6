"""What OpenAI's clients post: OpenAI's fields, those of them that have no meaning here, and some of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from contract.common import SEEDS, OutputFormat
from contract.job import JobWarning
from core.errors import InvalidRequest
from service.compat.fields import told
from service.requests.posts import PROMPT_CHARACTERS

MAX_IMAGES = 10
SIZE = re.compile(r"auto|[1-9][0-9]{1,5}x[1-9][0-9]{1,5}")
# What clients write for OpenAI's own models: here it means the service's default.
FOREIGN_MODEL = re.compile(r"(dall-e|gpt-image|chatgpt-image)-.+")
# Theirs answer base64 alone, and clients read nothing else.
BASE64_MODEL = re.compile(r"(gpt|chatgpt)-image-.+")
MEANINGLESS = (
    "quality",
    "style",
    "user",
    "background",
    "moderation",
    "output_compression",
    "input_fidelity",
    "safety_identifier",
    "complexity",
)
_NEUTRAL = (None, "auto", "")

Told = str | int | float | bool | None


class GenerationPost(BaseModel):
    """Text to image, as OpenAI's `images.generate`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: str = Field(max_length=PROMPT_CHARACTERS, description="What the picture shows.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Model id, from GET /v1/models; names of OpenAI's models stand for the service's default.",
    )
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="Images to make; default: 1.")
    size: str | None = Field(
        default=None,
        max_length=32,
        json_schema_extra={"pattern": f"^({SIZE.pattern})$"},
        description="WIDTHxHEIGHT, or auto: the model's native size, or the uploaded picture's.",
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        default=None, description="Default: url; b64_json for the names of OpenAI's gpt-image models."
    )
    output_format: OutputFormat | None = Field(default=None, description="File format; default: png.")
    stream: bool | None = Field(default=None, description="Answer server-sent events.")
    partial_images: int | None = Field(
        default=None, ge=0, le=3, description="With stream: events of the unfinished picture, small ones."
    )
    negative_prompt: str | None = Field(
        default=None, max_length=PROMPT_CHARACTERS, description="Ours: what it must not show."
    )
    seed: int | None = Field(default=None, ge=-1, le=SEEDS - 1, description="Ours: seed of the first image.")
    steps: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        validation_alias=AliasChoices("steps", "num_inference_steps"),
        description="Ours: denoising steps; num_inference_steps is read, too.",
    )
    guidance_scale: float | None = Field(default=None, ge=0, le=50, description="Ours: how strongly the prompt leads.")
    sampler: str | None = Field(
        default=None, min_length=1, max_length=64, description="Ours: one of the model's samplers."
    )
    quality: Told = Field(default=None, description="Has no meaning here.")
    style: Told = Field(default=None, description="Has no meaning here.")
    user: Told = Field(default=None, description="Has no meaning here.")
    background: Told = Field(default=None, description="Has no meaning here.")
    moderation: Told = Field(default=None, description="Has no meaning here.")
    output_compression: Told = Field(default=None, description="Has no meaning here.")
    safety_identifier: Told = Field(default=None, description="Has no meaning here.")
    complexity: Told = Field(default=None, description="Has no meaning here.")

    @property
    def own_model(self) -> str | None:
        """The model that is meant here; None: the service's default."""
        return None if self.model is None or FOREIGN_MODEL.fullmatch(self.model) else self.model

    @property
    def base64(self) -> bool:
        """Whether images are answered in the body."""
        if self.response_format is not None:
            return self.response_format == "b64_json"
        return self.model is not None and BASE64_MODEL.fullmatch(self.model) is not None

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height that were asked for.

        Raises:
            InvalidRequest: `size` is no size.
        """
        if self.size is None or self.size == "auto":
            return None
        if not SIZE.fullmatch(self.size):
            bound = "auto, or WIDTHxHEIGHT as 1024x1024"
            raise InvalidRequest(
                f"size is {self.size!r}; it must be {bound}", field="size", value=self.size, bound=bound
            )
        width, _, height = self.size.partition("x")
        return int(width), int(height)

    def drawing(self) -> dict[str, Any]:
        """Return the fields of our own post that all kinds have; None where nothing was said."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "model": self.own_model,
            "num_images": self.n,
            "output_format": self.output_format,
            "seed": self.seed,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
        }

    def warnings(self) -> Iterator[JobWarning]:
        """Tell of every field that was sent and has no meaning."""
        for name in MEANINGLESS:
            value = getattr(self, name, None)
            if value not in _NEUTRAL:
                yield told(name, f"{name} has no meaning here; it was ignored")
        if self.model is not None and self.own_model is None:
            yield told("model", f"{self.model} isn't served here; the default model drew")
        if self.partial_images and not self.stream:
            yield told("partial_images", "partial images are events of a stream; stream isn't true")


class EditPost(GenerationPost):
    """A picture repainted or drawn over, as OpenAI's `images.edit`."""

    strength: float | None = Field(
        default=None, gt=0, le=1, description="Ours: how much of the old picture is forgotten."
    )
    input_fidelity: Told = Field(default=None, description="Has no meaning here.")
