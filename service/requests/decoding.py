"""How the files that a kind needs are decoded, once: what a worker reads is what was decoded here, without loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from PIL import Image
from pydantic import BaseModel, ConfigDict

from contract.job import JobWarning
from contract.uploads import CONTROL
from core.pictures import ANY_CLASS, MaskMode, lossless, mask_remark, open_upload, read_depth, read_label_map, read_mask
from core.reframing import Framing, reframe

Size: TypeAlias = tuple[int, int]  # width and height after EXIF rotation
How: TypeAlias = Literal["nothing", "picture", "picture_and_mask", "label_map", "picture_and_depth", "framed"]


class Reading(BaseModel):
    """What the decoding of a request's files depends on."""

    model_config = ConfigDict(frozen=True)

    how: How
    max_pixels: int
    mask_mode: MaskMode = "white"
    classes: int = ANY_CLASS
    frame: Framing = Framing()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pictures by the name of their field, and what is odd about them."""

    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """The same, each picture as the PNG that is stored."""

    sizes: Mapping[str, Size]
    data: Mapping[str, bytes]
    warnings: tuple[JobWarning, ...] = ()


def decode(files: Mapping[str, bytes], reading: Reading) -> Decoded:
    """Decode the files, in this process.

    Raises:
        InvalidRequest: unreadable or oversized files; a mask that is empty, ambiguous or of another shape; a label map
            with a class that the model hasn't.
    """
    decoded = _WAYS[reading.how](files, reading)
    controls = {name: open_upload(files[name], reading.max_pixels, name) for name in files if name.startswith(CONTROL)}
    return replace(decoded, pictures={**decoded.pictures, **controls}) if controls else decoded


def encode(decoded: Decoded) -> Encoded:
    """Write what was decoded as it is stored."""
    sizes = {name: picture.size for name, picture in decoded.pictures.items()}
    data = {name: lossless(picture) for name, picture in decoded.pictures.items()}
    return Encoded(sizes, data, decoded.warnings)


def _nothing(_files: Mapping[str, bytes], _reading: Reading) -> Decoded:
    return Decoded()


def _picture(files: Mapping[str, bytes], reading: Reading) -> Decoded:
    return Decoded({"image": open_upload(files["image"], reading.max_pixels)})


def _picture_and_mask(files: Mapping[str, bytes], reading: Reading) -> Decoded:
    """Decode the image, and the mask over it; what is stored is the mask as it was drawn."""
    image = open_upload(files["image"], reading.max_pixels)
    mask = open_upload(files["mask"], reading.max_pixels, "mask")
    inside = read_mask(mask, reading.mask_mode, image.size)
    remark = mask_remark(mask, inside, reading.mask_mode)
    warnings = () if remark is None else (JobWarning(field="mask", message=remark),)
    return Decoded({"image": image, "mask": mask}, warnings)


def _label_map(files: Mapping[str, bytes], reading: Reading) -> Decoded:
    return Decoded({"image": read_label_map(files["image"], reading.classes, reading.max_pixels)})


def _picture_and_depth(files: Mapping[str, bytes], reading: Reading) -> Decoded:
    image = open_upload(files["image"], reading.max_pixels)
    return Decoded({"image": image, "depth": read_depth(files["depth"], image.size, reading.max_pixels)})


def _framed(files: Mapping[str, bytes], reading: Reading) -> Decoded:
    """Bring the image, and the mask over it if there is one, to the size that other APIs' requests name."""
    return Decoded(reframe(files["image"], files.get("mask"), reading.frame, reading.max_pixels))


_WAYS: Mapping[How, Callable[[Mapping[str, bytes], Reading], Decoded]] = {
    "nothing": _nothing,
    "picture": _picture,
    "picture_and_mask": _picture_and_mask,
    "label_map": _label_map,
    "picture_and_depth": _picture_and_depth,
    "framed": _framed,
}
