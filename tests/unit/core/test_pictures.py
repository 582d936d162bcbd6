"""Reading uploads and masks: every mode, every mask rule, and files that are broken or hostile."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.errors import InvalidRequest
from core.pictures import (
    LONGEST_SIDE,
    MAX_SCANS,
    MaskMode,
    _count_scans,
    check_sides,
    lossless,
    mask_remark,
    open_upload,
    read_label_map,
    read_mask,
)
from tests.hostile_pictures import scans

LIMIT = 1 << 20


def _encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _gradient(width: int = 20, height: int = 10) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_rgb_and_rgba_come_back_unchanged() -> None:
    rgb = _gradient()
    rgba = rgb.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(rgb.size))
    assert open_upload(_encoded(rgb), LIMIT).tobytes() == rgb.tobytes()
    assert open_upload(_encoded(rgba), LIMIT).tobytes() == rgba.tobytes()
    assert open_upload(_encoded(rgba, "WEBP", lossless=True, exact=True), LIMIT).tobytes() == rgba.tobytes()


@pytest.mark.parametrize(
    ("mode", "image_format", "expected"),
    [
        ("1", "PNG", "RGB"),
        ("L", "PNG", "RGB"),
        ("LA", "PNG", "RGBA"),
        ("P", "PNG", "RGB"),
        ("CMYK", "JPEG", "RGB"),
        ("L", "JPEG", "RGB"),
        ("RGBA", "PNG", "RGBA"),
    ],
)
def test_every_mode_becomes_eight_bit(mode: str, image_format: str, expected: str) -> None:
    image = open_upload(_encoded(_gradient().convert(mode), image_format), LIMIT)
    assert (image.mode, image.size) == (expected, (20, 10))


def test_palette_transparency_becomes_alpha() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    opened = open_upload(_encoded(image, transparency=1), LIMIT)
    assert [opened.getpixel((0, 0)), opened.getpixel((1, 0))] == [(255, 0, 0, 255), (0, 255, 0, 0)]


def test_sixteen_bit_grey_keeps_its_high_byte_and_its_transparent_value() -> None:
    rows = b"\x00" + struct.pack(">3H", 0, 0x80FF, 0xFFFF)
    opened = open_upload(_png(3, 1, 16, 0, rows, _chunk(b"tRNS", struct.pack(">H", 0x80FF))), LIMIT)
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0, 255), (128, 128, 128, 0), (255, 255, 255, 255)]


def test_sixteen_bit_rgb_keeps_its_high_bytes_and_its_transparent_colour() -> None:
    rows = b"\x00" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0)
    opened = open_upload(_png(2, 1, 16, 2, rows, _chunk(b"tRNS", struct.pack(">3H", 0xFFFF, 0, 0))), LIMIT)
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(0x12, 0x56, 0x9A, 255), (255, 0, 0, 0)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_upload(_encoded(_gradient(), exif=exif), LIMIT)
    assert opened.size == ((20, 10) if orientation < 5 else (10, 20))


def test_a_phone_picture_on_its_side_stands_up() -> None:
    image = Image.new("RGB", (16, 8), "blue")
    image.paste("red", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_upload(_encoded(image, exif=exif), LIMIT)
    assert (opened.getpixel((4, 0)), opened.getpixel((4, 15))) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WebP"])
def test_exif_that_can_t_be_read_turns_nothing(image_format: str) -> None:
    assert open_upload(_encoded(_gradient(), image_format, exif=b"Exif\0\0garbage"), LIMIT).size == (20, 10)


def test_xmp_turns_nothing() -> None:
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    for data in (_encoded(_gradient(), pnginfo=texts), _encoded(_gradient(), "JPEG", xmp=xmp.encode())):
        assert open_upload(data, LIMIT).size == (20, 10)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = _png(30_000, 30_000, 8, 2, b"\x00" * 100)
    with pytest.raises(InvalidRequest) as caught:
        open_upload(bomb, LIMIT)
    assert (caught.value.field, caught.value.value, caught.value.bound) == ("image", "30000×30000", LIMIT)


def test_animation_is_refused() -> None:
    frames = [_gradient(), Image.new("RGB", (20, 10), "red")]
    with pytest.raises(InvalidRequest, match="animated"):
        open_upload(_encoded(frames[0], save_all=True, append_images=frames[1:]), LIMIT)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="PNG, JPEG or WebP"):
        open_upload(data, LIMIT)


def test_other_formats_are_refused() -> None:
    for image_format in ("BMP", "GIF", "TIFF"):
        with pytest.raises(InvalidRequest):
            open_upload(_encoded(_gradient(), image_format), LIMIT)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.floats(0.0, 0.95), st.binary(max_size=8))
def test_a_cut_or_overwritten_file_is_read_or_refused(image_format: str, share: float, junk: bytes) -> None:
    whole = _encoded(_gradient(64, 48), image_format)
    place = int(len(whole) * share)
    for data in (whole[:place], whole[:place] + junk + whole[place + len(junk) :]):
        with contextlib.suppress(InvalidRequest):
            assert open_upload(data, LIMIT).mode in ("RGB", "RGBA")


def _mask(value: int, alpha: int | None = None) -> Image.Image:
    """An 8×8 mask whose left half has `value` (and `alpha`), the rest 0 (and opaque)."""
    left = Image.new("LA", (4, 8), (value, 255 if alpha is None else alpha))
    whole = Image.new("LA", (8, 8), (0, 255))
    whole.paste(left, (0, 0))
    return whole if alpha is not None else whole.convert("L")


def _read(drawn: Image.Image, mode: MaskMode, size: tuple[int, int]) -> Image.Image:
    return read_mask(open_upload(_encoded(drawn), LIMIT, "mask"), mode, size)


def _columns(mask: Image.Image) -> list[int]:
    return list(mask.crop((0, 0, mask.width, 1)).tobytes())


LEFT = [255] * 4 + [0] * 4
RIGHT = [0] * 4 + [255] * 4


def test_mask_modes() -> None:
    white, alpha = _mask(255), _mask(0, alpha=0)
    assert _columns(_read(white, "white", (8, 8))) == LEFT
    assert _columns(_read(white, "black", (8, 8))) == RIGHT
    assert _columns(_read(white, "auto", (8, 8))) == LEFT
    assert _columns(_read(alpha, "alpha", (8, 8))) == LEFT
    assert _columns(_read(alpha, "auto", (8, 8))) == LEFT


def test_a_pixel_of_128_is_inside_and_127_is_not() -> None:
    assert _columns(_read(_mask(128), "white", (8, 8))) == LEFT
    with pytest.raises(InvalidRequest, match="empty"):
        _read(_mask(127), "white", (8, 8))
    assert _columns(_read(_mask(0, alpha=127), "alpha", (8, 8))) == LEFT
    with pytest.raises(InvalidRequest, match="empty"):
        _read(_mask(0, alpha=128), "alpha", (8, 8))


def test_auto_takes_agreeing_channels_and_refuses_contradiction() -> None:
    assert _columns(_read(_mask(255, alpha=0), "auto", (8, 8))) == LEFT
    contradiction = Image.new("LA", (8, 8), (0, 0))
    contradiction.paste((255, 255), (0, 0, 4, 8))
    with pytest.raises(InvalidRequest, match="ambiguous") as caught:
        _read(contradiction, "auto", (8, 8))
    assert caught.value.field == "mask_mode"


def test_alpha_mode_needs_an_alpha_channel() -> None:
    with pytest.raises(InvalidRequest, match="has none"):
        _read(_mask(255), "alpha", (8, 8))


def test_a_mask_is_resized_only_within_its_aspect_ratio() -> None:
    assert _columns(_read(_mask(255), "white", (16, 16))) == [255] * 8 + [0] * 8
    assert _read(Image.new("L", (500, 333), 255), "white", (1000, 667)).size == (1000, 667)
    with pytest.raises(InvalidRequest) as caught:
        _read(_mask(255), "white", (16, 8))
    assert (caught.value.field, caught.value.value) == ("mask", "8×8")
    with pytest.raises(InvalidRequest):
        _read(Image.new("L", (256, 255), 255), "white", (256, 256))


def test_an_unreadable_mask_names_the_mask() -> None:
    with pytest.raises(InvalidRequest) as caught:
        open_upload(b"junk", LIMIT, "mask")
    assert caught.value.field == "mask"


def test_answers_have_as_many_pixels_as_allowed_and_fit_their_format() -> None:
    check_sides((1024, 1024), "png", LIMIT)
    check_sides((16_383, 2), "webp", LIMIT)
    with pytest.raises(InvalidRequest) as caught:
        check_sides((1024, 1025), "png", LIMIT)
    assert (caught.value.value, caught.value.bound) == ("1024×1025", LIMIT)
    with pytest.raises(InvalidRequest) as caught:
        check_sides((16_384, 2), "webp", LIMIT)
    assert (caught.value.field, caught.value.bound) == ("output_format", 16_383)


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_the_longest_side_is_what_can_be_written(name: str) -> None:
    longest = LONGEST_SIDE[name]
    check_sides((longest, 1), name, LIMIT)
    Image.new("RGB", (longest, 1)).save(io.BytesIO(), name)
    with pytest.raises((OSError, ValueError)):
        Image.new("RGB", (longest + 1, 1)).save(io.BytesIO(), name)


PALETTE = _chunk(b"PLTE", bytes(range(48)))


@pytest.mark.parametrize("colour_type", [0, 3])
@pytest.mark.parametrize(
    ("depth", "row", "labels"),
    [
        (1, b"\x50", [0, 1, 0, 1]),
        (2, b"\x1b", [0, 1, 2, 3]),
        (4, b"\x1f\x2e", [1, 15, 2, 14]),
        (8, b"\1\2\3\4", [1, 2, 3, 4]),
    ],
)
def test_label_maps_of_any_depth_are_class_numbers(depth: int, row: bytes, labels: list[int], colour_type: int) -> None:
    read = read_label_map(_png(4, 1, depth, colour_type, b"\0" + row, PALETTE if colour_type else b""), 16, LIMIT)
    assert [read.getpixel((x, 0)) for x in range(4)] == labels


def test_label_maps_have_up_to_65536_classes() -> None:
    data = _png(4, 1, 16, 0, b"\0\1\1\xff\xff\0\0\0\1")
    assert read_label_map(data, 2**16, LIMIT).getextrema() == (0, 65_535)
    with pytest.raises(InvalidRequest) as caught:
        read_label_map(data, 257, LIMIT)
    assert (caught.value.value, caught.value.bound) == ("257 at (0, 0)", 256)


def test_the_first_unknown_class_is_named() -> None:
    labels = Image.new("L", (9, 7), 2)
    for position in ((3, 5), (8, 4), (0, 6)):
        labels.putpixel(position, 3)
    with pytest.raises(InvalidRequest, match=r"class 3 at pixel \(8, 4\); the model has classes 0 to 2"):
        read_label_map(_encoded(labels), 3, LIMIT)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_label_maps_have_one_channel(mode: str) -> None:
    with pytest.raises(InvalidRequest, match=f"image has the channels {mode}"):
        read_label_map(_encoded(Image.new(mode, (2, 2))), 3, LIMIT)


def test_label_maps_are_lossless() -> None:
    with pytest.raises(InvalidRequest, match="image can't be read as a PNG picture"):
        read_label_map(_encoded(Image.new("L", (8, 8)), "JPEG"), 3, LIMIT)


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    data = scans(MAX_SCANS + 1, (16, 16))
    with pytest.raises(InvalidRequest, match="more than 100 scans") as refused:
        open_upload(data, LIMIT)
    assert (refused.value.field, refused.value.bound) == ("image", "100 scans")
    fewer = scans(MAX_SCANS - 10, (16, 16))
    assert open_upload(fewer, LIMIT).size == (16, 16)


def test_only_a_picture_s_own_scans_count() -> None:
    """What a thumbnail, a profile or a second picture behind it holds isn't decoded."""
    many = scans(500, (16, 16))
    picture = Image.new("RGB", (16, 16))
    assert open_upload(_encoded(picture, "JPEG", exif=b"Exif\0\0" + many[:60_000]), LIMIT).size == (16, 16)
    assert open_upload(_encoded(picture, "JPEG", icc_profile=b"\xff\xda" * 10_000), LIMIT).size == (16, 16)
    assert open_upload(_encoded(picture, "JPEG") + many, LIMIT).size == (16, 16)


@pytest.mark.parametrize("data", [b"\xff" * 10**6, b"\xff\xd8" + b"\xff" * 10**7 + b"\0", b"\xff\xd8" * 10**6])
def test_counting_scans_is_linear(data: bytes) -> None:
    began = time.process_time()
    assert _count_scans(data) == 0
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("drawn", "mode", "message"),
    [
        (Image.new("L", (8, 8), 255), "white", "covers the whole picture"),
        (Image.new("L", (8, 8), 0), "black", "covers the whole picture"),
        (Image.new("LA", (8, 8), (255, 0)), "white", "nothing but transparent"),
        (Image.new("LA", (8, 8), (255, 0)), "auto", "nothing but transparent"),
        (Image.new("LA", (8, 8), (255, 0)), "alpha", "covers the whole picture"),
        (_mask(255), "white", None),
        (_mask(255, alpha=0), "alpha", None),
    ],
)
def test_odd_masks_are_remarked(drawn: Image.Image, mode: MaskMode, message: str | None) -> None:
    mask = open_upload(_encoded(drawn), LIMIT, "mask")
    remark = mask_remark(mask, read_mask(mask, mode, mask.size), mode)
    assert (remark is None) == (message is None)
    assert message is None or message in str(remark)


def test_what_was_decoded_is_read_again_as_it_is() -> None:
    picture, drawn = open_upload(_encoded(_gradient()), LIMIT), open_upload(_encoded(_mask(255)), LIMIT, "mask")
    inside = read_mask(drawn, "black", drawn.size)
    assert read_mask(inside, "black", drawn.size) is inside
    for image in (picture, picture.convert("RGBA")):
        assert open_upload(lossless(image), LIMIT).tobytes() == image.tobytes()
