"""What the web UI's clients post: the fields that mean something here. Others are read and told, unless neutral."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from contract.common import MAX_IMAGES, SEEDS
from service.http.problems import describe
from service.requests.posts import MAX_FEATHER, MAX_SIZE, MIN_SIZE, PROMPT_CHARACTERS

Flag = bool | int
Base64: TypeAlias = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


def _numbers_as_texts(schema: dict[str, Any]) -> None:
    """Document that a number may be a text, too."""
    for field in schema.get("properties", {}).values():
        allowed = field.get("anyOf", [])
        if any(each.get("type") in ("integer", "number") for each in allowed):
            allowed.append({"type": "string"})


class Sent(BaseModel):
    """Base of all: clients send every field that they know, null where they mean the default."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, json_schema_extra=_numbers_as_texts)

    @property
    def extras(self) -> Mapping[str, Any]:
        """What was sent and isn't a field here."""
        return self.model_extra or {}

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would read as 1 or 0, as the web UI's values are read leniently."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and "bool" not in str(field.annotation):
            raise ValueError(describe(field))
        return value


class DrawingPost(Sent):
    """Fields of txt2img and img2img. Where nothing is said, the model's own defaults hold."""

    prompt: str | None = Field(
        default=None, max_length=PROMPT_CHARACTERS, description="What the picture shows; `<lora:name:1>` adds a LoRA."
    )
    negative_prompt: str | None = Field(
        default=None, max_length=PROMPT_CHARACTERS, description="What it must not show."
    )
    seed: int | None = Field(default=None, ge=-1, le=SEEDS - 1, description="Of the first image; -1: drawn.")
    sampler_name: str | None = Field(default=None, max_length=64, description="One of GET /sdapi/v1/samplers.")
    sampler_index: str | None = Field(default=None, max_length=64, description="An older name of sampler_name.")
    scheduler: str | None = Field(default=None, max_length=64, description="One of GET /sdapi/v1/schedulers.")
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps.")
    cfg_scale: float | None = Field(default=None, ge=0, le=50, description="How strongly the prompt leads.")
    width: int | None = Field(default=None, ge=MIN_SIZE, le=MAX_SIZE, description="Pixels.")
    height: int | None = Field(default=None, ge=MIN_SIZE, le=MAX_SIZE, description="Pixels.")
    batch_size: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="Images, times n_iter.")
    n_iter: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="Images, times batch_size.")
    eta: float | None = Field(default=None, ge=0, le=1, description="Of DDIM and TCD.")
    override_settings: dict[str, Any] | None = Field(
        default=None, description="`sd_model_checkpoint` chooses the model: a title or name of GET /sdapi/v1/sd-models."
    )
    send_images: Flag | None = Field(default=None, description="false: answer without images.")
    script_name: str | None = Field(default=None, max_length=200, description="There are no scripts here: refused.")
    alwayson_scripts: dict[str, Any] | None = Field(
        default=None, description="There are none here: refused, unless switched off."
    )

    @property
    def images(self) -> int:
        """How many are made."""
        return (self.batch_size or 1) * (self.n_iter or 1)


class Txt2ImgSent(DrawingPost):
    """Text to image, as the web UI's; the other fields are read with `enable_hr` alone."""

    enable_hr: Flag | None = Field(default=None, description="Draw once more, over the enlarged picture.")
    denoising_strength: float | None = Field(
        default=None, ge=0, le=1, description="How much of the enlarged picture is forgotten; default: 0.75."
    )
    hr_scale: float | None = Field(default=None, ge=0, le=16, description="How many times larger; default: 2.")
    hr_resize_x: int | None = Field(default=None, ge=0, le=MAX_SIZE, description="Its width instead; 0: hr_scale.")
    hr_resize_y: int | None = Field(default=None, ge=0, le=MAX_SIZE, description="Its height instead; 0: hr_scale.")
    hr_upscaler: str | None = Field(
        default=None, max_length=128, description="Latent (the default), Lanczos, or a model that upscales."
    )
    hr_second_pass_steps: int | None = Field(default=None, ge=0, le=1000, description="0: as many as before.")


class Img2ImgSent(DrawingPost):
    """Draw over a picture, or repaint what a mask covers, as the web UI's."""

    init_images: list[Base64] = Field(min_length=1, max_length=1, description="One picture as base64.")
    mask: Base64 | None = Field(default=None, description="As base64; white is repainted.")
    denoising_strength: float | None = Field(
        default=None, ge=0, le=1, description="How much of the picture is forgotten; 0: one step all the same."
    )
    image_cfg_scale: float | None = Field(
        default=None, description="How much is kept of the picture, by models of InstructPix2Pix alone; from 1 to 50."
    )
    resize_mode: int | None = Field(
        default=None, ge=0, le=3, description="To width and height: 0 stretch, 1 crop, 2 pad; 3 counts as 0."
    )
    mask_blur: int | None = Field(
        default=None, ge=0, le=MAX_FEATHER, description="Pixels outside the mask that may blend; default: 4."
    )
    mask_blur_x: int | None = Field(default=None, ge=0, le=MAX_FEATHER, description="The larger of both counts.")
    mask_blur_y: int | None = Field(default=None, ge=0, le=MAX_FEATHER, description="The larger of both counts.")
    inpainting_fill: int | None = Field(
        default=None,
        ge=0,
        le=3,
        description="What is under the mask first: 0 the colours around it, 1 the picture, 2 noise, 3 grey.",
    )
    inpaint_full_res: Flag | None = Field(
        default=None, description="Draw the masked region alone at width × height; default: true."
    )
    inpaint_full_res_padding: int | None = Field(
        default=None, ge=0, le=MAX_SIZE, description="Pixels around that region."
    )
    inpainting_mask_invert: Flag | None = Field(default=None, description="1: repaint what is black.")
    include_init_images: Flag | None = Field(default=None, description="Echo the pictures in `parameters`.")

    @field_validator("mask")
    @classmethod
    def _no_mask(cls, mask: str | None) -> str | None:
        """Take an empty text for none, as the web UI does."""
        return mask or None


class ExtrasPost(Sent):
    """Fields of extra-single-image and extra-batch-images."""

    resize_mode: int | None = Field(
        default=None, ge=0, le=1, description="0: by upscaling_resize; 1: to upscaling_resize_w × upscaling_resize_h."
    )
    upscaling_resize: float | None = Field(default=None, ge=0.1, le=16, description="By how much; default: 2.")
    upscaling_resize_w: int | None = Field(default=None, ge=1, le=MAX_SIZE, description="Pixels; default: 512.")
    upscaling_resize_h: int | None = Field(default=None, ge=1, le=MAX_SIZE, description="Pixels; default: 512.")
    upscaling_crop: Flag | None = Field(default=None, description="Crop to that shape; default: true.")
    upscaler_1: str | None = Field(
        default=None, max_length=200, description="One of GET /sdapi/v1/upscalers; None leaves the picture as it is."
    )


class ExtraSinglePost(ExtrasPost):
    """One picture."""

    image: Base64 = Field(description="As base64.")


class NamedFile(BaseModel):
    """One picture of several."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    data: Base64 = Field(description="As base64.")
    name: str | None = Field(default=None, description="Not read.")


class ExtraBatchPost(ExtrasPost):
    """Several pictures."""

    imageList: list[NamedFile] = Field(min_length=1, max_length=MAX_IMAGES)  # noqa: N815 (their name)


class PngInfoPost(Sent):
    """A picture whose text is read."""

    image: Base64 = Field(description="A PNG as base64.")
