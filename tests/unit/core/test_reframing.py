"""Pictures brought to a size with their masks, whole or by the masked region, and put back."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image, ImageChops

from core.errors import InvalidRequest
from core.pictures import lossless
from core.reframing import Fit, Framing, MaskRule, fitted, fitted_mask, put_back, reframe, region

PIXELS = 10**6
NAVY, RED = (20, 40, 90), (250, 20, 20)


def drawn(mode: str, size: tuple[int, int], ground: Any, inside: Any, box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new(mode, size, ground)
    image.paste(inside, box)
    return image


def spot(size: tuple[int, int] = (60, 40), box: tuple[int, int, int, int] = (20, 10, 30, 20)) -> Image.Image:
    return drawn("L", size, 0, 255, box)


@pytest.mark.parametrize(
    ("fit", "size"),
    [("stretch", (30, 30)), ("crop", (30, 30)), ("pad", (30, 30)), ("pad", (90, 30)), ("cover", (45, 30))],
)
def test_pictures_get_the_size_that_was_asked_for(fit: Fit, size: tuple[int, int]) -> None:
    asked = (30, 30) if fit == "cover" else size
    answer = fitted(Image.new("RGB", (60, 40), NAVY), asked, fit)
    assert answer.size == size
    assert answer.getcolors() == [(size[0] * size[1], NAVY)]  # padded by its own edges, nothing is black


def test_what_would_be_too_large_is_refused_before_it_is_made() -> None:
    strip = lossless(Image.new("RGB", (200, 1), NAVY))
    assert reframe(strip, None, Framing(size=(90, 90), fit="crop"), PIXELS)["image"].size == (90, 90)
    with pytest.raises(InvalidRequest, match="18000×90 pixels"):
        reframe(strip, None, Framing(size=(90, 90), fit="cover"), PIXELS)


def test_a_small_picture_s_tenth_has_a_pixel() -> None:
    assert reframe(lossless(Image.new("RGB", (4, 4), NAVY)), None, Framing(scale=0.1), PIXELS)["image"].size == (1, 1)


def test_padding_keeps_the_whole_picture_in_the_middle() -> None:
    halves = drawn("RGB", (40, 20), NAVY, RED, (20, 0, 40, 20))
    tall, wide = fitted(halves, (40, 40), "pad"), fitted(halves, (80, 20), "pad")
    assert tall.crop((0, 10, 40, 30)).tobytes() == halves.tobytes()
    assert [tall.getpixel(at) for at in ((5, 0), (35, 39))] == [NAVY, RED]
    assert wide.crop((20, 0, 60, 20)).tobytes() == halves.tobytes()
    assert [wide.getpixel(at) for at in ((0, 5), (79, 19))] == [NAVY, RED]


@pytest.mark.parametrize(
    ("size", "fit", "padding"),
    [
        ((20, 20), "stretch", None),
        ((13, 7), "stretch", None),
        ((120, 20), "stretch", None),
        ((30, 30), "crop", None),
        ((24, 24), "pad", None),
        ((20, 20), "stretch", 0),
    ],
)
def test_no_stroke_is_too_thin_for_a_smaller_picture(size: tuple[int, int], fit: Fit, padding: int | None) -> None:
    picture, frame = lossless(Image.new("RGB", (60, 40), NAVY)), Framing(size=size, fit=fit, padding=padding)
    for x in range(15, 45):  # the middle, which a crop leaves
        inside = reframe(picture, lossless(spot(box=(x, 5, x + 1, 35))), frame, PIXELS)["mask"]
        assert inside.size == size
        left, _, right, _ = inside.getbbox() or (0, 0, 0, 0)
        assert 1 <= right - left <= 2 or padding == 0  # it may touch two


def test_a_speck_counts_however_much_smaller_the_picture_becomes() -> None:
    inside = reframe(
        lossless(Image.new("RGB", (900, 900), NAVY)),
        lossless(spot((900, 900), (497, 100, 498, 101))),
        Framing(size=(9, 9)),
        PIXELS,
    )["mask"]
    assert inside.tobytes() == spot((9, 9), (4, 1, 5, 2)).tobytes()


def test_a_mask_that_gets_narrower_and_higher_is_never_both_wide_and_high() -> None:
    mask = spot((40000, 16), (20000, 5, 20001, 6))
    inside = fitted_mask(mask, (16, 8192), "stretch")  # 40,000 × 8,192 would be 328 MB
    assert inside.tobytes() == spot((16, 8192), (8, 5 * 512, 9, 6 * 512)).tobytes()
    tall = fitted_mask(mask.transpose(Image.Transpose.TRANSPOSE), (8192, 16), "stretch")
    assert tall.tobytes() == inside.transpose(Image.Transpose.TRANSPOSE).tobytes()


def test_a_strip_is_padded_not_lost() -> None:
    strip = lossless(Image.new("RGB", (400, 1), NAVY))
    framed = reframe(strip, lossless(Image.new("L", (400, 1), 255)), Framing(size=(90, 90), fit="pad"), PIXELS)
    assert framed["image"].getcolors() == [(90 * 90, NAVY)]
    assert framed["mask"].getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("mask", "rule"),
    [
        (spot(), "white"),
        (ImageChops.invert(spot()), "black"),
        (drawn("LA", (60, 40), (0, 255), (0, 0), (20, 10, 30, 20)), "transparent"),
        (drawn("LA", (60, 40), (0, 0), (0, 255), (20, 10, 30, 20)), "white"),  # an alpha channel that varies counts
        (drawn("RGBA", (60, 40), (0, 0, 0, 255), (255, 255, 255, 255), (20, 10, 30, 20)), "white"),
    ],
)
def test_masks_are_read_as_each_api_means_them(mask: Image.Image, rule: MaskRule) -> None:
    framed = reframe(lossless(Image.new("RGB", (60, 40), NAVY)), lossless(mask), Framing(mask_rule=rule), PIXELS)
    assert framed["mask"].tobytes() == spot().tobytes()
    assert set(framed) == {"image", "mask"}


def test_a_picture_s_own_transparency_is_its_mask() -> None:
    picture = Image.new("RGBA", (60, 40), (*NAVY, 255))
    assert set(reframe(lossless(picture), None, Framing(own_alpha=True), PIXELS)) == {"image"}
    picture.putalpha(ImageChops.invert(spot()))
    assert reframe(lossless(picture), None, Framing(own_alpha=True), PIXELS)["mask"].tobytes() == spot().tobytes()
    assert set(reframe(lossless(picture), None, Framing(), PIXELS)) == {"image"}


def test_what_is_under_the_mask_is_filled() -> None:
    picture = drawn("RGB", (60, 40), NAVY, RED, (20, 10, 30, 20))
    fills = {
        fill: reframe(lossless(picture), lossless(spot()), Framing(fill=fill), PIXELS)["image"]
        for fill in ("original", "surroundings", "grey")
    }
    for image, colour in zip(fills.values(), (RED, NAVY, (127, 127, 127)), strict=True):
        assert image.getpixel((25, 15)) == pytest.approx(colour, abs=2)
    assert all(image.getpixel((5, 5)) == NAVY for image in fills.values())


@pytest.mark.parametrize(
    ("mask", "padding", "size", "box"),
    [
        (spot(), 0, (10, 10), (20, 10, 30, 20)),
        (spot(), 5, (10, 10), (15, 5, 35, 25)),
        (spot(), 0, (20, 10), (15, 10, 35, 20)),
        (spot(), 0, (10, 20), (20, 5, 30, 25)),
        (spot(box=(0, 0, 10, 10)), 0, (40, 10), (0, 0, 40, 10)),  # moved inside
        (spot(box=(0, 0, 60, 10)), 0, (10, 10), (0, 0, 60, 40)),  # as far as there is room
        (spot(), 100, (60, 40), (0, 0, 60, 40)),
    ],
)
def test_a_region_holds_the_mask_and_has_the_shape_of_the_answer(
    mask: Image.Image, padding: int, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert region(mask, padding, size) == box


def test_a_region_is_put_back_where_the_mask_is() -> None:
    whole = Image.effect_noise((60, 40), 90).convert("RGB")
    framed = reframe(lossless(whole), lossless(spot()), Framing(size=(64, 64), padding=4), PIXELS)
    assert framed["image"].size == framed["mask"].size == (64, 64)
    painted = Image.new("RGB", (64, 64), RED)
    for feather, reach in ((0, 0), (3, 3)):
        answer = put_back(framed["whole"], framed["whole_mask"], painted, 4, feather)
        changed = ImageChops.difference(answer, whole).convert("L").point(lambda value: 255 if value else 0)
        assert answer.getpixel((25, 15)) == RED
        assert changed.getbbox() == (20 - reach, 10 - reach, 30 + reach, 20 + reach)


def test_refusals() -> None:
    picture = lossless(Image.new("RGB", (60, 40), NAVY))
    with pytest.raises(InvalidRequest, match="the mask has no alpha channel"):
        reframe(picture, lossless(spot()), Framing(mask_rule="transparent"), PIXELS)
    with pytest.raises(InvalidRequest, match="the mask is empty"):
        reframe(picture, lossless(Image.new("L", (60, 40), 0)), Framing(), PIXELS)
    with pytest.raises(InvalidRequest, match="at most 1000000 are made"):
        reframe(picture, None, Framing(scale=50.0), PIXELS)
    with pytest.raises(InvalidRequest, match="aspect ratios differ"):
        reframe(picture, lossless(spot((40, 40))), Framing(), PIXELS)
