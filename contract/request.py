"""The resolved request: every parameter of a job, as it will run. One model a kind, with exactly that kind's fields."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field, TypeAdapter

from contract.add_ons import Hires
from contract.common import BaseRequest, DrawnRequest, GuidedRequest, MaskMode, PromptedRequest, Span, unset
from contract.uploads import Upload


class Txt2ImgRequest(DrawnRequest):
    """Text to image; with `hires` drawn over once it is enlarged (`contract.stages`)."""

    kind: Literal["txt2img"]
    denoising_end: float | None = Field(default=None, exclude_if=unset)
    hires: Hires | None = Field(default=None, exclude_if=unset)

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
    def guided(self) -> bool:
        return super().guided and (bool(self.prompt) or self.negative_prompt != "")  # else both rows are the same

    @property
    def class_label(self) -> int | None:
        return self.noise_level


class Img2ImgRequest(DrawnRequest):
    """Draw over a picture; with `denoising_start` finish one that another model has begun.

    InstructPix2Pix changes it as the prompt says, and keeps to it by `image_guidance_scale`.
    """

    kind: Literal["img2img"]
    image: Upload
    strength: float = 1.0
    denoising_start: float | None = Field(default=None, exclude_if=unset)
    denoising_end: float | None = Field(default=None, exclude_if=unset)
    image_guidance_scale: float | None = Field(default=None, exclude_if=unset)

    @property
    def image_guidance(self) -> float:
        return 1.0 if self.image_guidance_scale is None else self.image_guidance_scale

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


class Depth2ImgRequest(DrawnRequest):
    """Draw over a picture, led by how near each of its pixels is: grey, the nearer the brighter."""

    kind: Literal["depth2img"]
    image: Upload
    depth: Upload
    strength: float = 1.0

    @property
    def denoising_strength(self) -> float:
        return self.strength


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
    | Depth2ImgRequest
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
