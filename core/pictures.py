"""Uploaded pictures and masks, read safely with Pillow alone, so that the gateway refuses what a worker couldn't use.

A picture is 8-bit RGB or RGBA after EXIF rotation: 16-bit samples keep their high byte; palette, grey and CMYK become
RGB, and transparency of any kind an alpha channel. Colour profiles are ignored. A mask is grey, 255 inside, 0 outside.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Literal, TypeAlias

from PIL import ExifTags, Image, ImageChops, ImageFile

from core.errors import InvalidRequest

MaskMode: TypeAlias = Literal["white", "black", "alpha", "auto"]

FORMATS = ("PNG", "JPEG", "WebP")
LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}  # what each format's files can say
INSIDE = 128  # a mask pixel of at least this is repainted
ANY_CLASS = 2**16  # classes where no card says how many there are: a pixel of a PNG can name no more
Z_RLE = 3  # zlib's number of it
MAX_SCANS = 100  # of a progressive JPEG, each of which costs a pass over the picture; encoders write about ten

warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on odd metadata
Image.MAX_IMAGE_PIXELS = None  # the caller's bound takes the place of Pillow's, and its refusal names the size

# What Pillow raises on broken, truncated or hostile files, depending on the format and the place.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRETCHED = {"1": 255, "L;2": 85, "L;4": 17}  # by how much Pillow multiplies grey samples of few bits
# A marker of a JPEG: in compressed data 0xFF is followed by 0 or by a restart.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_BARE = (0x01, 0xD8)  # markers without a length: TEM, start of image
_SCAN, _END = 0xDA, 0xD9


def open_upload(data: bytes, max_pixels: int, field: str = "image") -> Image.Image:
    """Decode an uploaded PNG, JPEG or WebP to 8-bit RGB or RGBA, turned as its EXIF orientation says.

    Sizes and scans are counted first, so that a decompression bomb is refused before a pixel of it is decoded.

    Raises:
        InvalidRequest: not such a file, truncated, animated, of more than `max_pixels` pixels or MAX_SCANS scans.
    """
    _check_scans(data, field)
    return _decoded(data, max_pixels, field, FORMATS, _eight_bit)


def read_label_map(data: bytes, classes: int, max_pixels: int) -> Image.Image:
    """Decode a PNG of one channel whose pixels are class numbers (grey of 1 to 16 bits, or palette): mode I.

    Raises:
        InvalidRequest: not such a file; a class that isn't below `classes`.
    """
    labels = _decoded(data, max_pixels, "image", ("PNG",), _labels)
    check_classes(labels, classes)
    return labels


def check_classes(labels: Image.Image, classes: int) -> None:
    """Check the numbers of a label map.

    Raises:
        InvalidRequest: a pixel that isn't below `classes`, naming its position (x, y).
    """
    over = labels.point([255 if value >= classes else 0 for value in range(65_536)], "L")
    rows = over.getbbox()
    if rows is None:
        return
    y = rows[1]
    x = (over.crop((0, y, over.width, y + 1)).getbbox() or (0,))[0]
    value = labels.getpixel((x, y))
    raise InvalidRequest(
        f"image has class {value} at pixel ({x}, {y}); the model has classes 0 to {classes - 1}",
        field="image",
        value=f"{value} at ({x}, {y})",
        bound=classes - 1,
    )


def read_mask(mask: Image.Image, mode: MaskMode, size: tuple[int, int]) -> Image.Image:
    """Read a decoded mask for a picture of `size` (width, height): mode L, 255 where it is repainted, else 0.

    A mask of another size is resized (nearest) if its aspect ratio is the picture's. What this returned before is
    returned again.

    Raises:
        InvalidRequest: of another aspect ratio, without the alpha channel that `mode` names, ambiguous
            (`auto` with varying alpha and varying grey that disagree), or without a pixel inside.
    """
    inside = mask if mask.mode == "L" else _inside(mask, mode)
    if inside.size != size:
        _check_aspect(inside.size, size)
        inside = inside.resize(size, Image.Resampling.NEAREST)
    if inside.getextrema() == (0, 0):
        raise InvalidRequest(
            f"the mask is empty: mask_mode {mode} finds no pixel to repaint",
            field="mask",
            value="0 pixels",
            bound="at least 1 pixel inside",
        )
    return inside


def read_depth(data: bytes, size: tuple[int, int], max_pixels: int) -> Image.Image:
    """Decode how near each pixel of a picture of `size` is, the nearer the brighter: mode I, 16 bits of grey.

    Raises:
        InvalidRequest: unreadable, of another size, coloured, or the same everywhere.
    """
    field = "depth"
    _check_scans(data, field)
    depth = _decoded(data, max_pixels, field, FORMATS, lambda image: _depth(image, field))
    if depth.size != size:
        has, wanted = (f"{width}×{height}" for width, height in (depth.size, size))
        detail = f"{field} has {has} pixels, the image {wanted}; they must have the same"
        raise InvalidRequest(detail, field=field, value=has, bound=wanted)
    low, high = depth.getextrema()
    if low == high:
        raise InvalidRequest(f"{field} is the same everywhere", field=field, value=low, bound="different depths")
    return depth


def mask_remark(mask: Image.Image, inside: Image.Image, mode: MaskMode) -> str | None:
    """What is odd about a mask, as `open_upload` decoded it and as `read_mask` read it, and yet may be meant."""
    if mode != "alpha" and "A" in mask.getbands() and mask.getchannel("A").getextrema() == (0, 0):
        return "the mask is nothing but transparent pixels; which are repainted was told by the grey under them"
    if inside.getextrema() == (255, 255):
        return "the mask covers the whole picture: nothing of the upload is kept"
    return None


def lossless(picture: Image.Image) -> bytes:
    """The PNG of a decoded picture, quickly written, that decodes to the same pixels; of mode I as 16-bit grey.

    Runs alone are looked for (Z_RLE): a third faster than all matches and, behind PNG's filters, no larger.
    """
    buffer = io.BytesIO()
    grey = picture.convert("I;16") if picture.mode == "I" else picture
    grey.save(buffer, "PNG", compress_level=1, compress_type=Z_RLE)
    return buffer.getvalue()


def check_control_size(name: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Check that a control's picture has the answer's size.

    Raises:
        InvalidRequest: it hasn't.
    """
    if size != wanted:
        has, asked = (f"{width}x{height}" for width, height in (size, wanted))
        detail = f"controls: {name} has {has} pixels, the picture to be made {asked}; they must have the same"
        raise InvalidRequest(detail, field="controls", value=has, bound=asked)


def check_sides(size: tuple[int, int], output_format: str, max_pixels: int, field: str = "width") -> None:
    """Check the size (width, height) of an answer; `field` is what of the request makes it so large.

    Raises:
        InvalidRequest: it has too many pixels, or is too long for a file of its format.
    """
    shown = f"{size[0]}×{size[1]}"
    if size[0] * size[1] > max_pixels:
        detail = f"{field} makes an answer of {shown} pixels; at most {max_pixels} are made"
        raise InvalidRequest(detail, field=field, value=shown, bound=max_pixels)
    bound = LONGEST_SIDE[output_format]
    if max(size) > bound:
        detail = f"output_format {output_format} holds at most {bound} pixels a side; the answer has {shown}"
        raise InvalidRequest(detail, field="output_format", value=output_format, bound=bound)


def _decoded(
    data: bytes,
    max_pixels: int,
    field: str,
    formats: tuple[str, ...],
    convert: Callable[[ImageFile.ImageFile], Image.Image],
) -> Image.Image:
    accepted = formats[0] if len(formats) == 1 else f"{', '.join(formats[:-1])} or {formats[-1]}"
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            _check_pixels(image, max_pixels, field)
            _check_frames(image, field)
            return _rotated(convert(image), image.info.get("exif", b""))
    except _UNREADABLE as error:
        raise InvalidRequest(
            f"{field} can't be read as a {accepted} picture",
            field=field,
            value=f"{len(data)} bytes",
            bound=f"a complete {accepted} file",
        ) from error


def _check_scans(data: bytes, field: str) -> None:
    """Refuse a JPEG of many scans: it is small, and yet each of them is a pass over all pixels."""
    if not data.startswith(b"\xff\xd8"):
        return
    scans = _count_scans(data)
    if scans > MAX_SCANS:
        detail = f"{field} is a JPEG of more than {MAX_SCANS} scans"
        raise InvalidRequest(detail, field=field, value=f"{scans} scans or more", bound=f"{MAX_SCANS} scans")


def _count_scans(data: bytes) -> int:
    """How many scans a JPEG has, up to one more than MAX_SCANS; segments are skipped by their lengths."""
    at, scans = 0, 0
    while scans <= MAX_SCANS and (marker := _MARKER.search(data, at)) is not None:
        kind, at = marker[1][0], marker.end()
        if kind == _END:
            return scans
        scans += kind == _SCAN
        if kind not in _BARE:
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def _check_pixels(image: Image.Image, max_pixels: int, field: str) -> None:
    if image.width * image.height > max_pixels:
        raise InvalidRequest(
            f"{field} has {image.width}×{image.height} pixels; at most {max_pixels} are accepted",
            field=field,
            value=f"{image.width}×{image.height}",
            bound=max_pixels,
        )


def _check_frames(image: Image.Image, field: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in ("PNG", "WEBP"):  # a phone's JPEG may carry a second view; its first is meant
        raise InvalidRequest(
            f"{field} is animated, with {frames} frames; send one frame", field=field, value=frames, bound=1
        )


def _eight_bit(image: ImageFile.ImageFile) -> Image.Image:
    image.load()
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        return _from_16_bit(image, key)
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # 16-bit RGB, of which Pillow kept high bytes
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _from_16_bit(image: Image.Image, key: object) -> Image.Image:
    wide = image.convert("I")
    picture = wide.point([value >> 8 for value in range(65_536)], "L").convert("RGB")
    if isinstance(key, int):
        picture.putalpha(wide.point([0 if value == key else 255 for value in range(65_536)], "L"))
    return picture


def _labels(file: ImageFile.ImageFile) -> Image.Image:
    if file.mode not in ("1", "L", "P") and not file.mode.startswith("I"):
        raise InvalidRequest(
            f"image has the channels {file.mode}; a label map has one, of class numbers",
            field="image",
            value=file.mode,
            bound="a PNG of one channel, grey or palette",
        )
    factor = _STRETCHED.get(str(file.tile[0].args), 1)
    file.load()
    image = Image.frombytes("L", file.size, file.tobytes()) if file.mode == "P" else file
    wide = image.convert("I")
    return wide if factor == 1 else wide.point([value // factor for value in range(65_536)], "L").convert("I")


def _depth(file: ImageFile.ImageFile, field: str) -> Image.Image:
    file.load()
    if file.mode.startswith("I"):
        return file.convert("I")
    red, green, blue = file.convert("RGB").split()
    if any(ImageChops.difference(red, other).getbbox() is not None for other in (green, blue)):
        detail = f"{field} has colours; a depth map is grey, the nearer the brighter"
        raise InvalidRequest(detail, field=field, value=file.mode, bound="a grey picture")
    return red.convert("I").point(lambda value: value * 257)  # 255 becomes 65535


def _rotated(image: Image.Image, data: bytes) -> Image.Image:
    """Turn a picture as its EXIF data say, if they can be read. As in browsers, XMP's orientation doesn't count."""
    exif = Image.Exif()
    try:
        exif.load(data)
        rotation = _ROTATIONS.get(exif.get(ExifTags.Base.Orientation, 1))
    except _UNREADABLE:
        rotation = None
    return image.copy() if rotation is None else image.transpose(rotation)


def _inside(mask: Image.Image, mode: MaskMode) -> Image.Image:
    white = _threshold(mask.convert("RGB").convert("L"))
    if mode == "white":
        return white
    if mode == "black":
        return ImageChops.invert(white)
    if mode == "auto" and not _varies(mask):
        return white
    if "A" not in mask.getbands():
        raise InvalidRequest(
            "mask_mode alpha needs a mask with an alpha channel; this one has none",
            field="mask_mode",
            value="alpha",
            bound="white, black or auto for a mask without alpha",
        )
    transparent = ImageChops.invert(_threshold(mask.getchannel("A")))
    if mode == "auto":
        _check_agreement(mask, transparent, white)
    return transparent


def _check_agreement(mask: Image.Image, transparent: Image.Image, white: Image.Image) -> None:
    grey = mask.convert("RGB").convert("L")
    low, high = grey.getextrema()
    if low != high and ImageChops.difference(transparent, white).getbbox() is not None:
        raise InvalidRequest(
            "the mask is ambiguous: its alpha channel and its grey values name different pixels; choose by mask_mode",
            field="mask_mode",
            value="auto",
            bound="white, black or alpha",
        )


def _varies(mask: Image.Image) -> bool:
    """Whether a mask's alpha channel, if it has one, says anything."""
    if "A" not in mask.getbands():
        return False
    low, high = mask.getchannel("A").getextrema()
    return low != high


def _threshold(grey: Image.Image) -> Image.Image:
    return grey.point([255 if value >= INSIDE else 0 for value in range(256)])


def _check_aspect(mask: tuple[int, int], size: tuple[int, int]) -> None:
    # The mask's height that its width asks for, or the other way round, up to the rounding of a resized picture.
    height = mask[0] * size[1] / size[0]
    width = mask[1] * size[0] / size[1]
    if abs(height - mask[1]) > 0.5 and abs(width - mask[0]) > 0.5:
        raise InvalidRequest(
            f"the mask has {mask[0]}×{mask[1]} pixels, the image {size[0]}×{size[1]}; their aspect ratios differ",
            field="mask",
            value=f"{mask[0]}×{mask[1]}",
            bound=f"{size[0]}×{size[1]} or the same aspect ratio",
        )
