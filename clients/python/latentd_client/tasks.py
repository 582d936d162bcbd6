"""The kinds of task as methods, written once for both clients: `Result` is a job here and an awaited job there."""

from __future__ import annotations

import base64
import io
import math
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypedDict, TypeVar

from PIL import Image, ImageOps

from latentd_client.calls import Call
from latentd_client.errors import ClientError

if TYPE_CHECKING:
    from typing_extensions import Unpack

Data: TypeAlias = bytes | bytearray | memoryview
Picture: TypeAlias = Image.Image | Data | str | os.PathLike[str]  # text is a path
DryRun: TypeAlias = Mapping[str, Any]

PICTURES = frozenset({"image", "mask", "depth"})  # fields whose text is a path, also those in a list's items
# Modes that a PNG holds. Numbers (F) become no colours unasked: Pillow says that it can't write them.
HELD = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B", "F"})
NEAREST = {"I": "I;16", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}  # of the others; else RGB
_READING = Lock()  # PIL reads a picture's file at its first use, and calls in several threads may share one

Result = TypeVar("Result", covariant=True)


class Fields(TypedDict, total=False):
    """What every kind takes; GET /v1/models says which of them a model uses, and its defaults."""

    model: str
    steps: int
    sampler: str
    eta: float
    schedule: str
    timesteps: Sequence[int]
    seed: int
    num_images: int
    output_format: str
    priority: str
    deadline_ms: int
    determinism: str
    preview_every: int
    webhook_url: str
    idempotency_key: str  # drawn for each call where it isn't given, so that trying again makes no second job


class Guided(Fields, total=False):
    guidance_scale: float
    guidance_interval: Sequence[float]


class Prompted(Guided, total=False):
    negative_prompt: str
    loras: Sequence[Mapping[str, Any]]
    prompt_syntax: str
    clip_skip: int


class Drawn(Prompted, total=False):
    original_size: Sequence[int]
    crop: Sequence[int]
    target_size: Sequence[int]
    aesthetic_score: float
    negative_aesthetic_score: float
    guidance_rescale: float
    controls: Sequence[Mapping[str, Any]]


class DrawnByText(Drawn, total=False):
    width: int
    height: int
    denoising_end: float
    hires: Mapping[str, Any]


class Repainted(Drawn, total=False):
    mask_mode: str
    feather: int
    strength: float


class DrawnOver(Drawn, total=False):
    strength: float
    denoising_start: float
    denoising_end: float
    image_guidance_scale: float


class LedByDepth(Drawn, total=False):
    strength: float


class Enlarged(Prompted, total=False):
    prompt: str
    noise_level: int


class Classed(Guided, total=False):
    class_id: int
    label: str
    width: int
    height: int


class LaidOut(Fields, total=False):
    boxes: Sequence[Mapping[str, Any]]
    crop: Sequence[float]
    tokens: Sequence[int]
    width: int
    height: int


class Tasks(ABC, Generic[Result]):
    """One method a kind; each submits a job and comes back at once."""

    @abstractmethod
    def submit(self, kind: str, **fields: Any) -> Result:
        """Submit a job of any kind, also of one that this client doesn't know yet; pictures by their fields' names."""

    def txt2img(self, prompt: str = "", **fields: Unpack[DrawnByText]) -> Result:
        """Draw a picture from a text."""
        return self.submit("txt2img", prompt=prompt, **fields)

    def img2img(self, image: Picture, prompt: str = "", **fields: Unpack[DrawnOver]) -> Result:
        """Draw over a picture."""
        return self.submit("img2img", image=image, prompt=prompt, **fields)

    def inpaint(self, image: Picture, mask: Picture, prompt: str = "", **fields: Unpack[Repainted]) -> Result:
        """Repaint the masked part of a picture: the white pixels of the mask, unless `mask_mode` says otherwise."""
        return self.submit("inpaint", image=image, mask=mask, prompt=prompt, **fields)

    def upscale(self, image: Picture, **fields: Unpack[Enlarged]) -> Result:
        """Enlarge a picture by the model's scale."""
        return self.submit("upscale", image=image, **fields)

    def class2img(self, **fields: Unpack[Classed]) -> Result:
        """Draw a picture of a class, by `class_id` or `label`."""
        return self.submit("class2img", **fields)

    def semantic2img(self, image: Picture, **fields: Unpack[Fields]) -> Result:
        """Draw a picture from a label map."""
        return self.submit("semantic2img", image=image, **fields)

    def depth2img(self, image: Picture, depth: Picture, prompt: str = "", **fields: Unpack[LedByDepth]) -> Result:
        """Draw over a picture, led by its depth: grey, the nearer the brighter."""
        return self.submit("depth2img", image=image, depth=depth, prompt=prompt, **fields)

    def layout2img(self, **fields: Unpack[LaidOut]) -> Result:
        """Draw a picture from boxes with their classes, as `{"box": [left, top, right, bottom], "class_id": 3}`."""
        return self.submit("layout2img", **fields)


def task_call(kind: str, fields: Mapping[str, Any], *, dry_run: bool = False) -> Call:
    """Return what submits a job, or asks what it would cost.

    Raises:
        ClientError: a field is what JSON can't say: infinite, no number, or text with half of a character.
    """
    given = dict(fields)
    key = given.pop("idempotency_key", None) or str(uuid.uuid4())
    sent = {name: _opened(name, value) for name, value in given.items() if value is not None}
    for name, value in sent.items():
        _check_sayable(name, value)
    json = {name: _encoded(value) for name, value in sent.items()}
    return Call(
        "POST",
        f"/v1/{kind}",
        json,
        params={"dry_run": "true"} if dry_run else {},
        headers={} if dry_run else {"Idempotency-Key": key},
    )


def _check_sayable(name: str, value: Any) -> None:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ClientError(f"{name} is {value!a}, which isn't UTF-8") from error
    elif isinstance(value, float) and not math.isfinite(value):
        raise ClientError(f"{name} is {value}; it must be a finite number")
    elif isinstance(value, Mapping):
        for each in value.values():
            _check_sayable(name, each)
    elif isinstance(value, Sequence) and not isinstance(value, str | Data):
        for each in value:
            _check_sayable(name, each)


def _opened(name: str, value: Any) -> Any:
    """Make a path of a picture that is given as text, at any depth."""
    if isinstance(value, str):
        return Path(value) if name in PICTURES else value
    if isinstance(value, Mapping):
        return {each: _opened(each, inner) for each, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, Data):
        return [_opened("", each) for each in value]
    return value


def _encoded(value: Any) -> Any:
    """Make JSON of a field: pictures, at any depth, become base64."""
    if isinstance(value, Image.Image):
        value = _png(value)
    if isinstance(value, os.PathLike):
        value = Path(value).read_bytes()
    if isinstance(value, Data):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {name: _encoded(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_encoded(each) for each in value]
    return value


def _png(picture: Image.Image) -> bytes:
    """Upright, as the service reads files: a PNG that Pillow writes doesn't say how the camera was held."""
    with _READING:
        upright = ImageOps.exif_transpose(picture)
    file = io.BytesIO()
    held = upright if upright.mode in HELD else upright.convert(NEAREST.get(upright.mode, "RGB"))
    held.save(file, "PNG")
    return file.getvalue()
