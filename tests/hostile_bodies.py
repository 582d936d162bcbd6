"""Bodies made to keep a parser busy, each of at most 32 MB; made anew, never stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.hostile_pictures import chunk, png_of, scans

FORM = "multipart/form-data; boundary=x"
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Hostile:
    """A body, where it goes, and what it is answered."""

    make: Callable[[], bytes]
    status: int
    field: str | None = None
    path: str = "/v1/upscale"
    content_type: str = "application/json"


def part(head: bytes, data: bytes, end: bytes = b"\r\n--x--\r\n") -> bytes:
    """A form of one part."""
    return b"--x\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + data + end


def _object(count: int, text: Callable[[int], str]) -> bytes:
    return ("{" + ",".join(text(k) for k in range(count)) + "}").encode()


HOSTILE: Mapping[str, Hostile] = {
    "200,000 unknown keys": Hostile(lambda: _object(200_000, lambda k: f'"k{k}":1'), 422, "k0", "/v1/txt2img"),
    "2.6 million unknown keys": Hostile(lambda: _object(2_600_000, lambda k: f'"{k}":1'), 422, "0", "/v1/txt2img"),
    "a known key of 10 million numbers": Hostile(
        lambda: b'{"prompt":[' + b"0," * (10 * MB) + b"0]}", 400, "body", "/v1/txt2img"
    ),
    "a key a million times": Hostile(lambda: b"{" + b'"seed":1,' * MB + b'"seed":1}', 400, "body", "/v1/txt2img"),
    "30 million brackets": Hostile(lambda: b"[" * (30 * MB), 400, "body", "/v1/txt2img"),
    "a number of 30 million digits": Hostile(lambda: b'{"seed":' + b"9" * (30 * MB) + b"}", 400, None, "/v1/txt2img"),
    "a fraction of 30 million digits": Hostile(
        lambda: b'{"eta":0.' + b"9" * (30 * MB) + b"}", 202, None, "/v1/txt2img"
    ),
    "a prompt of 5 million escapes": Hostile(
        lambda: b'{"prompt":"' + b"\\u00e9" * (5 * MB) + b'"}', 422, "prompt", "/v1/txt2img"
    ),
    "base64 with a space behind each letter": Hostile(
        lambda: json.dumps({"image": "A " * (15 * MB)}).encode(), 422, "image"
    ),
    "base64 of 30 MB": Hostile(lambda: json.dumps({"image": "A" * (30 * MB)}).encode(), 422, "image"),
    "a form in punycode": Hostile(
        lambda: part(b'name="steps"', b"a" * 600_000), 415, "Content-Type", content_type=f"{FORM}; charset=punycode"
    ),
    "a form in idna": Hostile(
        lambda: part(b'name="steps"', b"a" * 600_000), 415, "Content-Type", content_type=f"{FORM}; charset=idna"
    ),
    "a form of half boundaries": Hostile(
        lambda: part(b'name="image"; filename="i"', b"\r\n--" * (7 * MB)), 422, "image", content_type=FORM
    ),
    "a form of line ends": Hostile(lambda: b"\r\n" * (15 * MB), 400, content_type=FORM),
    "a form of empty parts": Hostile(lambda: b"--x\r\n" * (6 * MB), 400, content_type=FORM),
    "a part whose head has 30 MB": Hostile(
        lambda: part(b'name="steps"; a="' + b"\\" * (30 * MB) + b'"', b"1"), 400, content_type=FORM
    ),
    "a JPEG of 25,000 scans": Hostile(
        lambda: part(b'name="image"; filename="i"', scans(25_000)), 422, "image", content_type=FORM
    ),
    "a JPEG of 4 million fill bytes between markers": Hostile(
        lambda: part(b'name="image"; filename="i"', b"\xff\xd8" + (b"\xff" * 4 * MB + b"\0") * 7),
        422,
        "image",
        content_type=FORM,
    ),
    "a PNG of 2 million chunks": Hostile(
        lambda: part(b'name="image"; filename="i"', png_of(1, 1, 8, 2, b"\0" * 4, chunk(b"teXt", b"") * 2 * MB)),
        422,
        "image",
        content_type=FORM,
    ),
    "a text of 30 MB": Hostile(lambda: part(b'name="steps"', b"7" * (30 * MB)), 422, "steps", content_type=FORM),
}
