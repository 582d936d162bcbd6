"""What clients post, one model a kind: bounds and meanings; defaults come from the model's card.

A field that a kind can't use isn't in its model, so that it is refused as unknown. Pictures are read beside these
models (`service.requests.bodies`), from multipart parts or base64, and are described in the OpenAPI document only.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from contract.add_ons import HIRES_SCALE, HIRES_STRENGTH, LANCZOS, MAX_CONTROLS, MAX_HIRES_SCALE, Preprocess
from contract.base import Lane
from contract.common import MAX_IMAGES, SEEDS, Determinism, MaskMode, OutputFormat
from contract.prompts import PromptSyntax
from contract.samplers import MOST_TIMESTEPS, Schedule

PROMPT_CHARACTERS = 4000
URL_CHARACTERS = 2000
LIST_CHARACTERS = 6000  # of a list that comes as text
MIN_SIZE = 64
MAX_CLASS = 2**20
MAX_BOXES = 256
MAX_SIZE = 2**20  # of one side; LATENTD_MAX_PIXELS bounds both together
MAX_LORAS = 8
MAX_LORA_SCALE = 4.0
MAX_CONTROL_SCALE = 2.0
MAX_CLIP_SKIP = 12
MAX_FEATHER = 256
DRAWN = -1  # as a seed: what other tools write for none


def _without_drawn(seed: int | None) -> int | None:
    """Read -1 as absent, so that both are one request."""
    return None if seed == DRAWN else seed


class LoraPost(BaseModel):
    """A LoRA, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field(min_length=1, max_length=128, description="LoRA id, from GET /v1/loras.")
    scale: float = Field(
        default=1.0, ge=-MAX_LORA_SCALE, le=MAX_LORA_SCALE, description="1: as it was trained; below 0: its opposite."
    )


class ControlPost(BaseModel):
    """A ControlNet and what it reads; its picture stands beside it as `image`, in forms as the file `control_N`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: str = Field(min_length=1, max_length=128, description="ControlNet id, from GET /v1/controlnets.")
    scale: float = Field(default=1.0, ge=0, le=MAX_CONTROL_SCALE, description="How much of what it adds.")
    start: float = Field(default=0.0, ge=0, lt=1, description="It acts from this part of the steps on.")
    end: float = Field(default=1.0, gt=0, le=1, description="It acts until this part of the steps.")
    preprocess: Preprocess | None = Field(
        default=None, description="canny: edges of the picture are drawn first; absent: the picture is the map."
    )


class HiresPost(BaseModel):
    """A second pass: what was drawn is enlarged, then drawn over."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scale: float = Field(
        default=HIRES_SCALE,
        gt=1,
        le=MAX_HIRES_SCALE,
        description="How many times larger than width × height the answer is.",
    )
    strength: float = Field(
        default=HIRES_STRENGTH, gt=0, le=1, description="How much of the enlarged picture is forgotten."
    )
    steps: int | None = Field(
        default=None, ge=1, le=1000, description="Of which the last int(steps · strength) are run; default: as before."
    )
    upscaler: str = Field(
        default=LANCZOS,
        min_length=1,
        max_length=128,
        description="lanczos (the pixels), latent (the latents, bilinearly), or the id of a model that upscales.",
    )


def _in_order(controls: list[ControlPost] | None) -> list[ControlPost] | None:
    if any(control.end <= control.start for control in controls or ()):
        raise ValueError("a list in which each end is above its start")
    return controls


def _parsed(value: object) -> object:
    """Read the list or object where it comes as text, which is all that forms have."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        if len(value) <= LIST_CHARACTERS:
            return from_json(value, allow_inf_nan=False)
    raise ValueError(f"a list, in JSON of at most {LIST_CHARACTERS} characters")


def _each_once(loras: list[LoraPost] | None) -> list[LoraPost] | None:
    ids = [lora.id for lora in loras or ()]
    if len(set(ids)) < len(ids):
        raise ValueError("a list that has each LoRA once")
    return loras


def _corners(box: list[float] | None) -> list[float] | None:
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError("left, top, right, bottom, the first two below the others")
    return box


def _numbers(value: object) -> object:
    """Read a form's `1024,768` or `1024x768`, its `0.2,0.8`, or a list in JSON."""
    if isinstance(value, str) and not value.startswith("["):
        return value.replace("x", ",").split(",", MOST_TIMESTEPS)
    return _parsed(value)


Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Size: TypeAlias = Annotated[
    list[Annotated[int, Field(ge=1, le=MAX_SIZE)]] | None, Field(min_length=2, max_length=2), BeforeValidator(_numbers)
]
Corner: TypeAlias = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_SIZE)]] | None, Field(min_length=2, max_length=2), BeforeValidator(_numbers)
]
Interval: TypeAlias = Annotated[list[Share] | None, Field(min_length=2, max_length=2), BeforeValidator(_numbers)]
Timesteps: TypeAlias = Annotated[
    list[Annotated[int, Field(ge=0, lt=MOST_TIMESTEPS)]] | None,
    Field(min_length=1, max_length=MOST_TIMESTEPS),
    BeforeValidator(_numbers),
]
DENOISING_END: float | None = Field(
    default=None,
    gt=0,
    lt=1,
    description="Stop here on the way from noise, 0, to the picture, 1, for another model to go on; default: 1.",
)


class Post(BaseModel):
    """Fields of every kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str | None = Field(
        default=None, min_length=1, max_length=128, description="Model id, from GET /v1/models; default: the service's."
    )
    steps: int | None = Field(default=None, ge=1, le=1000, description="Denoising steps; default: the model's.")
    sampler: str | None = Field(
        default=None, min_length=1, max_length=64, description="One of the model's samplers; default: the model's."
    )
    eta: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="ddim's share of fresh noise in each step: 0 deterministic, 1 as DDPM; tcd's γ (0.3).",
    )
    schedule: Schedule | None = Field(
        default=None,
        description="Which noise levels the steps visit. Default: the model's with its default sampler, else its "
        "training's own spacing. normal, karras, exponential and sgm_uniform are k-diffusion's and the web UIs'.",
    )
    timesteps: Timesteps = Field(default=None, description="Falling timesteps to visit instead of steps and schedule.")
    seed: Annotated[
        int | None,
        Field(
            ge=DRAWN,
            le=SEEDS - 1,
            description="Seed of the first image; image k has seed + k. Drawn if it is absent or -1.",
        ),
        AfterValidator(_without_drawn),
    ] = None
    num_images: int = Field(default=1, ge=1, le=MAX_IMAGES, description="Images to make.")
    output_format: OutputFormat | None = Field(
        default=None, description="File format; default: the one that Accept names, else png. WebP is lossless."
    )
    priority: Lane = Field(default="interactive", description="interactive jobs run before bulk ones.")
    deadline_ms: int | None = Field(
        default=None, ge=1, le=86_400_000, description="Milliseconds from acceptance after which the job fails."
    )
    determinism: Determinism = Field(
        default="fast", description="strict: the same bytes whatever else runs; fast may differ in the last bits."
    )
    preview_every: int = Field(
        default=0, ge=0, le=1000, description="Steps between previews of each image in the event stream; 0: none."
    )
    webhook_url: str | None = Field(
        default=None,
        min_length=1,
        max_length=URL_CHARACTERS,
        description="Told by POST when the job ends (Standard Webhooks); its host must be in LATENTD_WEBHOOK_ALLOW.",
    )


class Guided(Post):
    """Fields of the kinds that can be led by a condition."""

    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=50,
        description="How strongly the condition leads; 0, 1: no guidance. Default: the model's.",
    )
    guidance_interval: Interval = Field(
        default=None,
        description="Guide only where a step's timestep is between these shares of all, [from, to]: 0 is no noise, "
        "1 nothing else. Steps outside cost one row instead of two. Default: everywhere.",
    )


class Prompted(Guided):
    """Fields of the kinds that follow a text."""

    prompt: str = Field(
        default="", max_length=PROMPT_CHARACTERS, description="What the picture shows; empty: whatever the model likes."
    )
    negative_prompt: str | None = Field(
        default=None, max_length=PROMPT_CHARACTERS, description="What it must not show; used with guidance."
    )
    loras: Annotated[
        list[LoraPost] | None,
        Field(max_length=MAX_LORAS, description="What is added to the model for this request; in forms JSON text."),
        BeforeValidator(_parsed),
        AfterValidator(_each_once),
    ] = None
    prompt_syntax: PromptSyntax = Field(
        default="plain",
        description="weighted: (word:1.2), [word], BREAK and <lora:id:0.8> as in AUTOMATIC1111, of any length; for "
        "models that read text by CLIP.",
    )
    clip_skip: int | None = Field(
        default=None,
        ge=1,
        le=MAX_CLIP_SKIP,
        description="Layer of CLIP, from the last, that is read: 1 is the last. Default: the model's.",
    )


class Drawn(Prompted):
    """Fields of the kinds that draw a picture by a text; most are for models of SDXL alone."""

    original_size: Size = Field(
        default=None, description="Width and height that the picture had, as told to SDXL; default: the answer's."
    )
    crop: Corner = Field(default=None, description="Left and top of the crop, as told to SDXL; default: [0, 0].")
    target_size: Size = Field(
        default=None, description="Width and height to aim at, as told to SDXL; default: the answer's."
    )
    aesthetic_score: float | None = Field(
        default=None, ge=0, le=10, description="How good the picture is, as told to SDXL's refiner; default: 6."
    )
    negative_aesthetic_score: float | None = Field(
        default=None, ge=0, le=10, description="How good what guidance leads away from is; default: 2.5."
    )
    guidance_rescale: float | None = Field(
        default=None, ge=0, le=1, description="How much of the contrast that guidance adds is taken back; default: 0."
    )
    controls: Annotated[
        list[ControlPost] | None,
        Field(
            max_length=MAX_CONTROLS,
            description="ControlNets that lead by a picture of the answer's size; in forms JSON text, the pictures "
            "beside it as files control_0, control_1, ….",
        ),
        BeforeValidator(_parsed),
        AfterValidator(_in_order),
    ] = None


class Sized(Post):
    """Fields of the kinds whose answer has no picture to take its size from."""

    width: int | None = Field(
        default=None, ge=MIN_SIZE, le=MAX_SIZE, description="Pixels; default: the model's native size."
    )
    height: int | None = Field(
        default=None, ge=MIN_SIZE, le=MAX_SIZE, description="Pixels; default: the model's native size."
    )


class Txt2ImgPost(Drawn, Sized):
    """Text to image; models without a text encoder draw whatever they like."""

    denoising_end: float | None = DENOISING_END
    hires: Annotated[
        HiresPost | None,
        Field(description="Draw once more, over the enlarged picture; in forms JSON text."),
        BeforeValidator(_parsed),
    ] = None


class InpaintPost(Drawn):
    """Repaint the masked part of a picture; the answer has the picture's size."""

    mask_mode: MaskMode = Field(
        default="white",
        description="What is repainted: white or black mask pixels, transparent ones (alpha), or auto: alpha where "
        "the mask has a varying alpha channel, else white.",
    )
    feather: int = Field(
        default=0, ge=0, le=MAX_FEATHER, description="Pixels outside the mask that may blend; none further is changed."
    )
    strength: float | None = Field(
        default=None, gt=0, le=1, description="How much of the old picture under the mask is forgotten; 1: all of it."
    )


class UpscalePost(Prompted):
    """Super-resolution by the model's scale; the answer has the picture's size times that scale."""

    noise_level: int | None = Field(
        default=None, ge=0, le=999, description="Noise put over the picture first: more hides its faults, and it."
    )


class Img2ImgPost(Drawn):
    """Draw over a picture; the answer has the picture's size."""

    strength: float | None = Field(
        default=None, gt=0, le=1, description="How much of the picture is forgotten; 1: all. Default: the model's."
    )
    denoising_start: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The picture has noise left, as another model's `denoising_end` left it: go on from there, without "
        "`strength`.",
    )
    denoising_end: float | None = DENOISING_END
    image_guidance_scale: float | None = Field(
        default=None,
        ge=1,
        le=50,
        description="How much the answer keeps to the picture, by models that change it as the prompt says "
        "(InstructPix2Pix); above 1 a step has a third row. Default: the model's.",
    )


class Depth2ImgPost(Drawn):
    """Draw over a picture, led by a depth map of its size: grey, 8 or 16 bits, the nearer the brighter."""

    strength: float | None = Field(
        default=None, gt=0, le=1, description="How much of the picture is forgotten; 1: all. Default: the model's."
    )


class Class2ImgPost(Guided, Sized):
    """A picture of one of the model's classes; either `class_id` or `label` names it."""

    class_id: int | None = Field(default=None, ge=0, le=MAX_CLASS, description="Number of the class, from 0.")
    label: str | None = Field(
        default=None, min_length=1, max_length=200, description="One of the card's class_names; case is ignored."
    )


class BoxPost(BaseModel):
    """Where something is, and what; either `class_id` or `label` names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    box: Annotated[list[Share], Field(min_length=4, max_length=4), AfterValidator(_corners)] = Field(
        description="Left, top, right, bottom: shares of the scene's width and height."
    )
    class_id: int | None = Field(default=None, ge=0, le=MAX_CLASS, description="Number of its class, from 0.")
    label: str | None = Field(
        default=None, min_length=1, max_length=200, description="One of the card's class_names; case is ignored."
    )
    group: bool = Field(default=False, description="Several of them that touch each other.")
    occluded: bool = Field(default=False, description="Something else is before it.")
    depiction: bool = Field(default=False, description="A drawing or statue of it.")
    inside: bool = Field(default=False, description="Seen from within.")


class Layout2ImgPost(Sized):
    """A picture from boxes with their classes; either `boxes` or `tokens` is needed."""

    boxes: list[BoxPost] | None = Field(
        default=None, min_length=1, max_length=MAX_BOXES, description="What is where, in any order."
    )
    crop: Annotated[list[Share] | None, Field(min_length=4, max_length=4), AfterValidator(_corners)] = Field(
        default=None, description="Left, top, right, bottom of what the picture shows of the scene; default: all of it."
    )
    tokens: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None,
        min_length=1,
        max_length=3 * MAX_BOXES + 2,
        description="The numbers that the network reads, as many as the card's `layout.length`, instead of boxes.",
    )


class Semantic2ImgPost(Post):
    """A picture from a label map: a PNG of one channel whose pixels are class numbers, as large as the answer."""
