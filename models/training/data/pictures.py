"""Pictures as they are trained on: decoded, cropped or composed on a ground, by the sample's own generator."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from core.errors import ConfigurationError
from models.training.configs.base import ComposeConfig, DataConfig
from models.training.data.folder import Folder, Item

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the canvas
WHITE = (255, 255, 255)
LAST_CLASS = 255  # of a label map
SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N", "I;16R")  # what Pillow calls grey of 16 bits in a file
STRETCHED = {"L;2": 85, "L;4": 17}  # by how much Pillow multiplies grey samples of few bits
GROUNDS = {
    "white": WHITE,
    "black": (20, 20, 24),
    "gray": (190, 190, 195),
    "red": (230, 80, 80),
    "orange": (255, 170, 90),
    "yellow": (255, 222, 89),
    "green": (120, 200, 120),
    "mint green": (180, 240, 210),
    "teal": (60, 160, 165),
    "light blue": (178, 216, 255),
    "sky blue": (96, 176, 240),
    "navy": (40, 55, 110),
    "purple": (170, 130, 220),
    "lavender": (215, 200, 250),
    "pink": (255, 182, 205),
    "beige": (240, 225, 200),
}
# What Pillow raises on broken files, depending on the format and the place.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
PAIR = 0.47  # of the canvas: each of two things
SIDE_BY_SIDE = 0.65  # of the pairs; the others are one above the other


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture H W 3, its captions (any of them is true), and where they are known the box of its thing and its label
    map H W."""

    pixels: Pixels
    captions: tuple[str, ...]
    box: Box | None = None
    map: Pixels | None = None


def draw(folder: Folder, index: int, config: DataConfig, rng: np.random.Generator) -> Drawn:
    """Draw picture `index` as the configuration says.

    Raises:
        ConfigurationError: a file can't be decoded, or a label map has another size than its picture.
    """
    item = folder.items[index]
    if config.compose is not None:
        return _composed(folder, item, config.compose, config.size, rng)
    picture = flattened(read_picture(item.file))
    label_map = None if item.map is None else _map_of(item.map, picture.size)
    box = _crop(picture.size, config, rng)
    turned = config.flip and rng.random() < 0.5
    pixels = _cut(picture, box, config.size, Image.Resampling.BOX, turned)
    marks = None if label_map is None else _cut(label_map, box, config.size, Image.Resampling.NEAREST, turned)
    return Drawn(pixels, item.captions, map=marks)


def read_picture(file: Path) -> Image.Image:
    """Decode a picture as RGB or RGBA, turned as its EXIF says.

    Raises:
        ConfigurationError: naming the file, which can't be read or whose numbers have no black and white.
    """
    try:
        with Image.open(file) as opened:
            _check_range(opened, file)
            picture = _eight_bit(ImageOps.exif_transpose(opened))
            return picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except UNREADABLE as error:
        raise ConfigurationError(f"{file}: is no readable picture ({error})", value=str(file)) from error


def _check_range(opened: ImageFile.ImageFile, file: Path) -> None:
    """Refuse floating point, signed, 12- and 32-bit numbers: nothing says which of them is white."""
    if opened.mode != "F" and not opened.mode.startswith("I"):
        return
    args = opened.tile[0].args if opened.tile else None
    raw = str(args[0] if isinstance(args, tuple) else args)
    if raw not in SIXTEEN:
        detail = f"{file}: its numbers are {raw} (Pillow's mode {opened.mode}), and nothing says which of them is white"
        raise ConfigurationError(f"{detail}; save it with 8 or 16 bits", value=raw, bound="8 or 16 bits a channel")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Keep the high byte of 16-bit grey, all of which above 255 Pillow would make white."""
    if not picture.mode.startswith("I"):
        return picture
    wide, key = picture.convert("I"), picture.info.get("transparency")
    grey = wide.point([value >> 8 for value in range(1 << 16)], "L").convert("RGB")
    if isinstance(key, int):
        grey.putalpha(wide.point([0 if value == key else 255 for value in range(1 << 16)], "L"))
    return grey


def flattened(picture: Image.Image) -> Image.Image:
    """Lay a transparent picture on white."""
    if picture.mode != "RGBA":
        return picture
    canvas = Image.new("RGB", picture.size, WHITE)
    canvas.paste(picture, mask=picture.getchannel("A"))
    return canvas


def _map_of(file: Path, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(file) as opened:
            labels = _labels(opened, file)
    except UNREADABLE as error:
        raise ConfigurationError(f"{file}: is no readable label map ({error})", value=str(file)) from error
    if labels.size != size:
        detail = f"{file}: is {labels.size[0]}×{labels.size[1]}; its picture is {size[0]}×{size[1]}"
        raise ConfigurationError(detail, value=labels.size, bound=size)
    return labels


def _labels(opened: ImageFile.ImageFile, file: Path) -> Image.Image:
    """Return class numbers as they are in the file, of 1 to 16 bits a pixel; colours name no class."""
    if opened.mode not in ("1", "L", "P") and not opened.mode.startswith("I"):
        detail = f"{file}: has the channels {opened.mode}; a label map has one, of class numbers"
        raise ConfigurationError(detail, value=opened.mode, bound="a PNG of one channel, grey or palette")
    stretched = STRETCHED.get(str(opened.tile[0].args), 1) if opened.tile else 1
    numbers = np.asarray(opened.convert("I") if opened.mode.startswith("I") else opened).astype(np.int64) // stretched
    wrong = next((int(value) for value in (numbers.min(), numbers.max()) if not 0 <= value <= LAST_CLASS), None)
    if wrong is not None:
        detail = f"{file}: has class {wrong}; the last that is trained is {LAST_CLASS}, and the first 0"
        raise ConfigurationError(detail, value=wrong, bound=LAST_CLASS)
    return Image.fromarray(numbers.astype(np.uint8))


def _crop(size: tuple[int, int], config: DataConfig, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Choose a square: the largest in the middle, or a random one of at least `zoom` of it."""
    width, height = size
    side = min(size)
    if config.crop == "center":
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side
    side = max(1, round(side * rng.uniform(config.zoom, 1.0)))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    return left, top, left + side, top + side


def _cut(
    picture: Image.Image, box: tuple[int, int, int, int], size: int, how: Image.Resampling, turned: bool
) -> Pixels:
    """Resize a square: by area downwards, as SR3's pipeline does, and bicubic upwards."""
    small = box[2] - box[0] < size and how == Image.Resampling.BOX
    cut = picture.resize((size, size), Image.Resampling.BICUBIC if small else how, box)
    return np.asarray(ImageOps.mirror(cut) if turned else cut).copy()


def _composed(folder: Folder, item: Item, config: ComposeConfig, size: int, rng: np.random.Generator) -> Drawn:
    if rng.random() < config.scenes:
        other = folder.items[int(rng.integers(len(folder.items)))]
        return _scene(item, other, size, rng)
    ground, told = _ground(config, rng)
    canvas = Image.new("RGB", (size, size), GROUNDS[ground])
    scale = rng.uniform(*config.scale)
    box = _placed(canvas, read_picture(item.file), scale, rng.uniform(-1, 1, 2) * (1 - scale) / 2 + 0.5)
    ending = f" on a {ground} background" if told else ""
    return Drawn(np.asarray(canvas).copy(), tuple(caption + ending for caption in item.captions), box)


def _ground(config: ComposeConfig, rng: np.random.Generator) -> tuple[str, bool]:
    if rng.random() >= config.coloured:
        return "white", False
    return str(rng.choice(list(GROUNDS))), bool(rng.random() < config.told)


def _scene(first: Item, second: Item, size: int, rng: np.random.Generator) -> Drawn:
    """Draw two things and say how they stand; the box is the second's."""
    canvas = Image.new("RGB", (size, size), WHITE)
    beside = rng.random() < SIDE_BY_SIDE
    for item, side in ((first, -1), (second, 1)):
        along, across = 0.5 + side * rng.uniform(0.235, 0.265), 0.5 + rng.uniform(-0.12, 0.12)
        centre = np.array([along, across] if beside else [across, along])
        box = _placed(canvas, read_picture(item.file), PAIR, centre)
    a, b = first.captions[0] if first.captions else "", second.captions[0] if second.captions else ""
    captions: tuple[str, ...]
    if beside:
        captions = (f"{a} and {b}", f"{a} to the left of {b}", f"{b} to the right of {a}")
    else:
        captions = (f"{a} above {b}", f"{b} below {a}")
    return Drawn(np.asarray(canvas).copy(), captions if a and b else (), box)


def _placed(canvas: Image.Image, thing: Image.Image, scale: float, centre: NDArray[Any]) -> Box:
    """Paste a thing whose longer side is `scale` of the canvas around `centre`; return where it is."""
    side = canvas.size[0]
    ratio = scale * side / max(thing.size)
    size = (max(1, round(thing.width * ratio)), max(1, round(thing.height * ratio)))
    small = thing.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    left, top = round(float(centre[0]) * side - size[0] / 2), round(float(centre[1]) * side - size[1] / 2)
    canvas.paste(small, (left, top), small.getchannel("A") if small.mode == "RGBA" else None)
    return left / side, top / side, (left + size[0]) / side, (top + size[1]) / side
