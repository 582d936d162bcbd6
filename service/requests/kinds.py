"""The kinds of task, each declared once: routes, bodies, resolution and the OpenAPI document follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from contract.base import Kind
from contract.card import ModelCard
from service.requests import parameters
from service.requests.decoding import How, Size
from service.requests.posts import (
    Class2ImgPost,
    Depth2ImgPost,
    Img2ImgPost,
    InpaintPost,
    Layout2ImgPost,
    Post,
    Semantic2ImgPost,
    Txt2ImgPost,
    UpscalePost,
)

P = TypeVar("P", bound=Post)
Examples: TypeAlias = Mapping[str, Mapping[str, object]]

# Fields that a model may lack; all others concern the job.
DRAWING = frozenset({"steps", "sampler", "eta"})
GUIDANCE = frozenset({"guidance_scale"})
TEXT = frozenset({"prompt", "negative_prompt", "clip_skip"}) | GUIDANCE
TOLD = TEXT | frozenset(parameters.TOLD)
SIZE = frozenset({"width", "height"})
EXAMPLE_PICTURE = "iVBORw0KGgo…"


@dataclass(frozen=True, slots=True)
class TaskKind(Generic[P]):
    """One kind of task, served at /v1/{kind}. `files` are required, by name."""

    kind: Kind
    post: type[P]
    summary: str
    description: str = ""
    files: tuple[str, ...] = ()
    decode: How = "nothing"
    size: Callable[[P, ModelCard, Size | None], Size] = parameters.image_size  # of the answer, by that of the image
    resolve: Callable[[P, ModelCard], dict[str, Any]] = parameters.no_parameters  # those of this kind
    model_fields: frozenset[str] = DRAWING  # refused where the model's card doesn't list them
    examples: Examples = field(default_factory=dict)

    @property
    def controlled(self) -> bool:
        """Whether ControlNets can lead it, each by a picture."""
        return "controls" in self.post.model_fields

    @property
    def in_forms(self) -> bool:
        """Whether it has pictures, and so comes in forms, too."""
        return bool(self.files) or self.controlled


TXT2IMG = TaskKind(
    kind="txt2img",
    post=Txt2ImgPost,
    summary="Text to image",
    size=parameters.chosen_size,
    resolve=parameters.painted,
    model_fields=DRAWING | TOLD | SIZE | {"denoising_end"},
    examples={
        "short": {"summary": "A prompt alone", "value": {"prompt": "red heart"}},
        "larger": {"summary": "Once more, larger", "value": {"prompt": "red heart", "hires": {"scale": 2}}},
        "full": {
            "summary": "Everything chosen",
            "value": {
                "prompt": "parrot on a navy background",
                "negative_prompt": "hat",
                "width": 256,
                "height": 256,
                "steps": 12,
                "guidance_scale": 4.0,
                "sampler": "ddim",
                "eta": 0.0,
                "seed": 7,
                "num_images": 2,
                "output_format": "webp",
                "priority": "bulk",
                "determinism": "strict",
                "preview_every": 5,
            },
        },
    },
)
INPAINT = TaskKind(
    kind="inpaint",
    post=InpaintPost,
    summary="Repaint the masked part of a picture",
    description="Pixels outside the mask (and its feather) are byte-equal to the upload in PNG and WebP answers.",
    files=("image", "mask"),
    decode="picture_and_mask",
    resolve=parameters.repainted,
    model_fields=DRAWING | TOLD | {"strength"},
    examples={
        "base64": {
            "summary": "Picture and mask as base64",
            "value": {"prompt": "red heart", "image": EXAMPLE_PICTURE, "mask": EXAMPLE_PICTURE, "mask_mode": "white"},
        }
    },
)
UPSCALE = TaskKind(
    kind="upscale",
    post=UpscalePost,
    summary="Super-resolution",
    description="The answer is the model's `scale` times larger than the picture, in width and in height.",
    files=("image",),
    decode="picture",
    size=parameters.enlarged_size,
    resolve=parameters.enlarged,
    model_fields=DRAWING | TEXT | {"noise_level"},
    examples={"base64": {"summary": "Picture as base64", "value": {"image": EXAMPLE_PICTURE}}},
)
IMG2IMG = TaskKind(
    kind="img2img",
    post=Img2ImgPost,
    summary="Draw over a picture",
    description="SDEdit: noise by `strength` over the picture, then the last steps of a drawing. Models of "
    "InstructPix2Pix change it as the prompt says, led by `image_guidance_scale` too. Transparency is left out.",
    files=("image",),
    decode="picture",
    resolve=parameters.drawn_over,
    model_fields=DRAWING | TOLD | {"strength", "image_guidance_scale", "denoising_start", "denoising_end"},
    examples={
        "base64": {
            "summary": "Picture as base64",
            "value": {"prompt": "red heart", "image": EXAMPLE_PICTURE, "strength": 0.6},
        }
    },
)
CLASS2IMG = TaskKind(
    kind="class2img",
    post=Class2ImgPost,
    summary="A picture of a class",
    size=parameters.chosen_size,
    resolve=parameters.classed,
    model_fields=DRAWING | GUIDANCE | SIZE | {"class_id", "label"},
    examples={
        "number": {"summary": "By number", "value": {"class_id": 207}},
        "name": {"summary": "By name, where the card has names", "value": {"label": "golden retriever"}},
    },
)
SEMANTIC2IMG = TaskKind(
    kind="semantic2img",
    post=Semantic2ImgPost,
    summary="Label map to image",
    description="A class that the model hasn't is refused with the position (x, y) of its first pixel.",
    files=("image",),
    decode="label_map",
    examples={"base64": {"summary": "Label map as base64", "value": {"image": EXAMPLE_PICTURE}}},
)
DEPTH2IMG = TaskKind(
    kind="depth2img",
    post=Depth2ImgPost,
    summary="Draw over a picture by its depth",
    description="`depth` is a grey picture of the image's size, 8 or 16 bits, the nearer the brighter, as MiDaS writes "
    "it; it comes ready. Shapes stay where they are while `strength` forgets the rest.",
    files=("image", "depth"),
    decode="picture_and_depth",
    resolve=parameters.led_by_depth,
    model_fields=DRAWING | TOLD | {"strength"},
    examples={
        "base64": {
            "summary": "Picture and depth as base64",
            "value": {"prompt": "red heart", "image": EXAMPLE_PICTURE, "depth": EXAMPLE_PICTURE},
        }
    },
)
LAYOUT2IMG = TaskKind(
    kind="layout2img",
    post=Layout2ImgPost,
    summary="Boxes and classes to image",
    size=parameters.chosen_size,
    resolve=parameters.laid_out,
    model_fields=DRAWING | SIZE | {"boxes", "crop", "tokens"},
    examples={
        "boxes": {
            "summary": "Two boxes by the numbers of their classes",
            "value": {
                "boxes": [
                    {"box": [0.1, 0.2, 0.5, 0.9], "class_id": 3},
                    {"box": [0.5, 0.5, 1.0, 1.0], "class_id": 17},
                ]
            },
        }
    },
)

_ALL: tuple[TaskKind[Any], ...] = (TXT2IMG, INPAINT, UPSCALE, IMG2IMG, CLASS2IMG, SEMANTIC2IMG, DEPTH2IMG, LAYOUT2IMG)
KINDS: Mapping[Kind, TaskKind[Any]] = {task.kind: task for task in _ALL}
