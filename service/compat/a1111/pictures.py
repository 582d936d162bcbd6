"""What becomes of a job's pictures before the web UI's clients get them: put back, brought to a size; text is kept."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.reframing import Fit, fitted, put_back, region
from service.compat.a1111.infotext import read_texts
from service.requests.posts import MAX_FEATHER

PARAMETERS = "parameters"


@dataclass(frozen=True, slots=True)
class Region:
    """The picture into which painted regions are put back, as PNG, and how."""

    whole: bytes
    mask: bytes
    padding: int
    feather: int


def scaled_feather(place: Region, drawn: bytes) -> int:
    """Return how far a region blends at the size at which it is drawn."""
    size = size_of(drawn)
    left, _, right, _ = region(_open(place.mask), place.padding, size)
    return min(MAX_FEATHER, round(place.feather * size[0] / (right - left)))


def parameters_of(data: bytes) -> str:
    """Return what a PNG of ours says of itself."""
    return read_texts(data).get(PARAMETERS, "")


def whole_picture(data: bytes, place: Region) -> bytes:
    """Put a painted region back into the picture that was uploaded."""
    answer = put_back(_open(place.whole), _open(place.mask), _open(data), place.padding, place.feather)
    return _written(answer, parameters_of(data))


def resized(data: bytes, size: tuple[int, int], fit: Fit) -> bytes:
    """Bring a picture to a size; one that has it keeps its bytes."""
    picture = _open(data)
    answer = fitted(picture, size, fit)
    return data if answer is picture else _written(answer, parameters_of(data))


def grid(pictures: Mapping[int, Image.Image], count: int) -> Image.Image:
    """Lay pictures out by their numbers, as large as the largest, in about as many rows as columns, on black."""
    rows = round(math.sqrt(count))
    columns = math.ceil(count / rows)
    width, height = max(picture.size for picture in pictures.values())
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, picture in pictures.items():
        sheet.paste(picture.resize((width, height)), (index % columns * width, index // columns * height))
    return sheet


def size_of(data: bytes) -> tuple[int, int]:
    """Return the width and height of a PNG of ours."""
    return _open(data).size


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG",))


def _written(picture: Image.Image, parameters: str) -> bytes:
    chunks, data = PngInfo(), io.BytesIO()
    if parameters:
        chunks.add_text(PARAMETERS, parameters)
    picture.save(data, "PNG", pnginfo=chunks, compress_level=1)
    return data.getvalue()
