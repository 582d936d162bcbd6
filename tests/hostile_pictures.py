"""A corpus of pictures made to break decoders, and of odd but honest ones; made anew, never stored."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Mapping

import numpy
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, data: bytes) -> bytes:
    """One PNG chunk with a right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG whose header may say anything; `rows` are its unpacked bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG + b"".join(
        (chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b""))
    )


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(mode: str, size: tuple[int, int] = (32, 24)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    data = numpy.random.default_rng(7).integers(0, 256, (size[1], size[0], bands), dtype=numpy.uint8)
    return Image.merge(mode, [Image.fromarray(data[:, :, k]) for k in range(bands)])


def honest() -> Mapping[str, bytes]:
    """Unusual pictures that must be read."""
    rgb, paletted = _noise("RGB"), _noise("RGB").quantize(8)
    grey16 = Image.fromarray(numpy.arange(32 * 24, dtype=numpy.uint16).reshape(24, 32) * 80)
    rows16 = b"".join(b"\0" + bytes(range(48)) * 4 for _ in range(24))  # 32 pixels of 3 channels of 2 bytes
    return {
        "16-bit grey PNG": saved(grey16, "PNG"),
        "16-bit RGB PNG": png_of(32, 24, 16, 2, rows16),
        "1-bit PNG": saved(_noise("L").convert("1"), "PNG"),
        "grey and alpha PNG": saved(_noise("LA"), "PNG"),
        "RGBA PNG": saved(_noise("RGBA"), "PNG"),
        "palette PNG": saved(paletted, "PNG"),
        "palette and alpha PNG": saved(paletted, "PNG", transparency=bytes(range(0, 256, 32))),
        "interlace-free 1×1 PNG": saved(Image.new("RGB", (1, 1)), "PNG"),
        "CMYK JPEG": saved(_noise("CMYK"), "JPEG"),
        "grey JPEG": saved(_noise("L"), "JPEG"),
        "progressive JPEG": saved(rgb, "JPEG", progressive=True),
        "JPEG with an absurd orientation": saved(rgb, "JPEG", exif=_orientation(4711)),
        "JPEG with a broken profile": saved(rgb, "JPEG", icc_profile=b"no profile" * 10),
        "lossless WebP with alpha": saved(_noise("RGBA"), "WEBP", lossless=True),
        "PNG and ZIP in one file": saved(rgb, "PNG") + b"PK\x03\x04" + b"\0" * 100,
        "PNG with script in its text": png_of(
            1, 1, 8, 2, b"\0\0\0\0", chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")
        ),
    }


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def hostile() -> Mapping[str, bytes]:
    """Files that must be refused, cheaply."""
    rgb = _noise("RGB")
    png, jpeg, webp = saved(rgb, "PNG"), saved(rgb, "JPEG"), saved(rgb, "WEBP")
    frames = {"save_all": True, "append_images": [_noise("RGB").rotate(9)] * 3}
    bomb = zlib.compress(b"\0" * 2**28, 9)
    files = {
        "empty": b"",
        "zeros": b"\0" * 1000,
        "30,000 × 30,000 pixels in 110 kB": png_of(30_000, 30_000, 1, 0, b"\0" * (30_000 * 3751)),
        "2³¹ − 1 pixels wide": png_of(2**31 - 1, 1, 1, 0, b"\0" * 100),
        "2³² − 1 pixels wide": png_of(2**32 - 1, 2**32 - 1, 8, 6, b"\0" * 100),
        "0 × 0 pixels": png_of(0, 0, 8, 2, b""),
        "no such depth": png_of(4, 4, 7, 2, b"\0" * 100),
        "256 MiB of text in 260 kB": png_of(1, 1, 8, 2, b"\0" * 4, chunk(b"zTXt", b"Comment\0\0" + bomb)),
        "256 MiB of profile": png_of(1, 1, 8, 2, b"\0" * 4, chunk(b"iCCP", b"icc\0\0" + bomb)),
        "a chunk of 2 GiB, declared": PNG + struct.pack(">I", 2**31 - 1) + b"IHDR" + b"\0" * 64,
        "no rows": png_of(64, 64, 8, 2, b""),
        "no data": PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
        "wrong checksum": png[:40] + bytes([png[40] ^ 255]) + png[41:],
        "animated PNG": saved(rgb, "PNG", **frames),
        "animated WebP": saved(rgb, "WEBP", **frames),
        "GIF": saved(rgb.quantize(8), "GIF"),
        "TIFF": saved(rgb, "TIFF"),
        "BMP": saved(rgb, "BMP"),
        "ICO": saved(rgb, "ICO"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n%%EOF\n",
        "PDF with a JPEG": b"%PDF-1.4\n" + jpeg,
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "SVG of many entities": b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><svg>&b;</svg>',
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "WebP that declares 4 GiB": b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8L" + b"\xff" * 64,
        "JPEG that declares 65,535 × 65,535": _resized_jpeg(jpeg, 65_535),
    }
    for name, data in {"PNG": png, "JPEG": jpeg, "WebP": webp}.items():
        files |= {f"{name} cut at {part} %": data[: len(data) * part // 100] for part in (1, 10, 50, 90)}
    return files


def scans(count: int, size: tuple[int, int] = (2000, 2000)) -> bytes:
    """A progressive JPEG that repeats its second scan, a few bytes for all of its AC coefficients, `count` times."""
    data = saved(Image.new("L", size, 128), "JPEG", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    ends = re.compile(rb"\xff[\xc4\xda\xd9]").search(data, second + 2)
    assert ends
    return data[: ends.start()] + data[second : ends.start()] * (count - 1) + b"\xff\xd9"


def _resized_jpeg(data: bytes, side: int) -> bytes:
    """Another size in the frame header (SOF0), the data unchanged."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]
