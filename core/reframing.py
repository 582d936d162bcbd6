"""A picture and its mask brought to the size that a client asked for, whole or by the masked region; and put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image, ImageChops, ImageFilter, ImageOps

from core.errors import InvalidRequest
from core.pictures import INSIDE, check_sides, open_upload, read_mask

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[int, int, int, int]
Fit: TypeAlias = Literal["stretch", "crop", "pad", "cover"]
MaskRule: TypeAlias = Literal["transparent", "white", "black"]
Fill: TypeAlias = Literal["original", "surroundings", "grey"]

GREY = (127, 127, 127, 255)
COARSE_TO_FINE = (64, 16, 4)  # pixels whose mean fills a hole
TOUCHED = [0] + [255] * 255  # for `point`: all but nothing is everything
MEANT = 255  # pixels of whose mean in 8 bits one at 255 leaves a trace


@dataclass(frozen=True, slots=True)
class Framing:
    """What becomes of an upload before it is drawn over.

    `padding` is of the masked region, which alone is brought to `size` then; None: the whole picture. `own_alpha`: a
    picture without a mask is repainted where it is transparent itself.
    """

    size: Size | None = None  # None: as large as the picture
    scale: float = 1.0  # of the picture's size, where no size is given
    fit: Fit = "stretch"
    nearest: bool = False
    mask_rule: MaskRule = "white"
    fill: Fill = "original"
    padding: int | None = None
    own_alpha: bool = False


def reframe(image_file: bytes, mask_file: bytes | None, frame: Framing, max_pixels: int) -> dict[str, Image.Image]:
    """Decode an upload and bring it into its frame: `image`, with a mask `mask`, of a region `whole`, `whole_mask` too.

    Raises:
        InvalidRequest: an unreadable or oversized file, a mask that is empty or of another shape.
    """
    image = open_upload(image_file, max_pixels)
    mask = _mask(image, mask_file, frame, max_pixels)
    size = frame.size or scaled(image.size, frame.scale)
    check_fitted(image.size, size, frame.fit, max_pixels)
    if mask is None:
        return {"image": fitted(image, size, frame.fit, frame.nearest)}
    if frame.padding is None:
        framed = fitted(image, size, frame.fit, frame.nearest)
        inside = fitted_mask(mask, size, frame.fit)
        return {"image": _filled(framed, inside, frame.fill), "mask": inside}
    box = region(mask, frame.padding, size)
    part = image.crop(box).resize(size, Image.Resampling.LANCZOS)
    inside = fitted_mask(mask.crop(box), size, "stretch")
    return {"image": _filled(part, inside, frame.fill), "mask": inside, "whole": image, "whole_mask": mask}


def _mask(image: Image.Image, mask_file: bytes | None, frame: Framing, max_pixels: int) -> Image.Image | None:
    if mask_file is not None:
        inside = _inside(open_upload(mask_file, max_pixels, "mask"), frame.mask_rule)
        return read_mask(inside, "white", image.size)
    if not frame.own_alpha or "A" not in image.getbands():
        return None
    transparent = _inside(image, "transparent")
    return transparent if transparent.getbbox() else None


def _inside(mask: Image.Image, rule: MaskRule) -> Image.Image:
    """Read which pixels are repainted; where the rule is a grey value, an alpha channel that says something counts.

    Raises:
        InvalidRequest: the transparent ones of a mask without transparency.
    """
    alpha = mask.getchannel("A") if "A" in mask.getbands() else None
    if rule == "transparent" and alpha is None:
        raise InvalidRequest(
            "the mask has no alpha channel; its transparent pixels are repainted",
            field="mask",
            value="no alpha channel",
            bound="a PNG with transparent pixels",
        )
    told = alpha if alpha is not None and alpha.getextrema() != (255, 255) else mask.convert("RGB").convert("L")
    grey = alpha if rule == "transparent" and alpha is not None else told
    bright = grey.point([255 if value >= INSIDE else 0 for value in range(256)])
    return bright if rule == "white" else ImageChops.invert(bright)


def scaled(size: Size, factor: float) -> Size:
    """Return a size times a factor, of a pixel a side at least."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def check_fitted(picture: Size, size: Size, fit: Fit, max_pixels: int, field: str = "width") -> None:
    """Check how large `fitted` makes a picture; `field` is what of the request makes it so large.

    Raises:
        InvalidRequest: too large; a long strip covers a square by far more than its pixels.
    """
    covered = scaled(picture, max(size[0] / picture[0], size[1] / picture[1]))
    check_sides(covered if fit == "cover" else size, "png", max_pixels, field)


def fitted(picture: Image.Image, size: Size, fit: Fit, nearest: bool = False) -> Image.Image:
    """Return a picture of `size`: stretched, its middle alone, or whole with its edges repeated outwards.

    cover: whole and of its own shape, so that it is as large as `size` at least.
    """
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS
    if picture.size == size:
        return picture
    if fit == "stretch":
        return picture.resize(size, how)
    if fit == "crop":
        return ImageOps.fit(picture, size, how)
    if fit == "cover":
        return ImageOps.cover(picture, size, how)
    return _padded(picture.resize(_contained(picture.size, size), how), size)


def _contained(picture: Size, size: Size) -> Size:
    return scaled(picture, min(size[0] / picture[0], size[1] / picture[1]))


def fitted_mask(mask: Image.Image, size: Size, fit: Fit) -> Image.Image:
    """Bring a mask to `size` as `fitted` brings its picture: what becomes one pixel is inside if any of it was.

    The nearest pixel's value for many would lose thin strokes. Pillow's box filter loses a few as well, where rounding
    leaves a pixel between two boxes out of both; so the mask is enlarged to a multiple of the size first.
    """
    if mask.size == size:
        return mask
    inner = _contained(mask.size, size) if fit == "pad" else size
    across, down = (_multiple(*sides) for sides in zip(mask.size, inner, strict=True))
    if fit == "crop":
        across = down = min(across, down)
        mask = fitted(mask, (inner[0] * across, inner[1] * down), fit, nearest=True)
    else:  # a side that only gets larger does so at the end, when the other is small
        fine = inner[0] * across if across > 1 else mask.width, inner[1] * down if down > 1 else mask.height
        mask = mask.resize(fine, Image.Resampling.NEAREST)
    inside = _touched(_touched(mask, (1, 0), across), (0, 1), down).resize(inner, Image.Resampling.NEAREST)
    return _padded(inside, size) if fit == "pad" else inside


def _multiple(side: int, inner: int) -> int:
    """Return how many pixels become one, so that none of `side` is left out, in as many as means can be made of."""
    times = side // inner + 1
    return times if times <= MEANT else MEANT * -(-times // MEANT)


def _touched(mask: Image.Image, axis: tuple[int, int], times: int) -> Image.Image:
    while times > 1:
        step = min(times, MEANT)
        mask = mask.reduce((max(1, axis[0] * step), max(1, axis[1] * step))).point(TOUCHED)
        times //= step
    return mask


def _padded(picture: Image.Image, size: Size) -> Image.Image:
    left, top = (size[0] - picture.width) // 2, (size[1] - picture.height) // 2
    right, bottom = left + picture.width, top + picture.height
    canvas = Image.new(picture.mode, size)
    canvas.paste(picture, (left, top))
    if left or right < size[0]:
        canvas.paste(picture.crop((0, 0, 1, picture.height)).resize((max(1, left), picture.height)), (0, top))
        edge = picture.crop((picture.width - 1, 0, picture.width, picture.height))
        canvas.paste(edge.resize((max(1, size[0] - right), picture.height)), (right, top))
    if top or bottom < size[1]:
        canvas.paste(canvas.crop((0, top, size[0], top + 1)).resize((size[0], max(1, top))), (0, 0))
        edge = canvas.crop((0, bottom - 1, size[0], bottom))
        canvas.paste(edge.resize((size[0], max(1, size[1] - bottom))), (0, bottom))
    if (left, top) != (0, 0):
        canvas.paste(picture, (left, top))
    return canvas


def region(mask: Image.Image, padding: int, size: Size) -> Box:
    """Return the box around a mask with `padding` pixels more, of the shape of `size` as far as the picture has room.

    It holds all that is inside the mask.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, mask.width, mask.height)
    left, top = max(0, left - padding), max(0, top - padding)
    right, bottom = min(mask.width, right + padding), min(mask.height, bottom + padding)
    if (right - left) * size[1] < (bottom - top) * size[0]:
        left, right = _grown(left, right, round((bottom - top) * size[0] / size[1]), mask.width)
    else:
        top, bottom = _grown(top, bottom, round((right - left) * size[1] / size[0]), mask.height)
    return left, top, right, bottom


def _grown(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    length = min(max(length, high - low), limit)
    low = max(0, min(low - (length - (high - low)) // 2, limit - length))
    return low, low + length


def _filled(image: Image.Image, mask: Image.Image, fill: Fill) -> Image.Image:
    """Return the picture with another start under the mask; its own, the colours around it, or grey."""
    if fill == "original":
        return image
    ground = Image.new("RGBA", image.size, GREY)
    for factor in COARSE_TO_FINE if fill == "surroundings" else ():
        ground.alpha_composite(_seen(image, mask, factor))
    answer = image.copy()
    answer.paste(ground.convert(image.mode), mask=mask)
    return answer


def _seen(image: Image.Image, mask: Image.Image, factor: int) -> Image.Image:
    """Return the colours outside the mask, each the mean of factor × factor pixels; transparent where all are inside.

    Pillow resizes RGBA with premultiplied alpha, so that what is hidden has no weight.
    """
    kept = image.convert("RGBA")
    kept.putalpha(ImageChops.invert(mask))
    small = kept.resize((max(1, image.width // factor), max(1, image.height // factor)), Image.Resampling.BOX)
    small.putalpha(small.getchannel("A").point(TOUCHED))
    return small.resize(image.size, Image.Resampling.BILINEAR)


def put_back(whole: Image.Image, mask: Image.Image, painted: Image.Image, padding: int, feather: int) -> Image.Image:
    """Put a painted region back into its picture: where the mask is, and up to `feather` pixels around it.

    `painted` has the size to which the region was brought, all others that of the picture. Other pixels keep their
    bytes.
    """
    box = region(mask, padding, painted.size)
    small = painted.convert(whole.mode).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS)
    answer = whole.copy()
    answer.paste(small, box[:2], _reach(mask, feather).crop(box))
    return answer


def _reach(mask: Image.Image, feather: int) -> Image.Image:
    if feather == 0:
        return mask
    blurred = mask.filter(ImageFilter.BoxBlur(feather))
    return ImageChops.lighter(mask, blurred.point(TOUCHED))
