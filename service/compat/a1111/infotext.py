"""What the text of a PNG says of how it was made: the `parameters` lines that the web UI's tools read."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping

from core.errors import InvalidRequest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 2**20
MAX_TEXTS = 64
_NEGATIVE = "Negative prompt:"
_FACT = re.compile(r'\s*([\w ./()+-]+?):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")


def read_texts(data: bytes) -> dict[str, str]:
    """Read the text chunks of a PNG by their keyword; no pixel is decoded.

    Raises:
        InvalidRequest: no PNG, or one of more than MAX_TEXTS texts.
    """
    if not data.startswith(SIGNATURE):
        raise InvalidRequest("image is no PNG file", field="image", value=f"{len(data)} bytes", bound="a PNG file")
    texts = dict(text for kind, chunk in _chunks(data) if (text := _text(kind, chunk)) is not None)
    if len(texts) > MAX_TEXTS:
        bound = f"{MAX_TEXTS} texts"
        raise InvalidRequest(f"image has more than {bound}", field="image", value=len(texts), bound=bound)
    return texts


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _text(kind: bytes, chunk: bytes) -> tuple[str, str] | None:
    keyword, zero, rest = chunk.partition(b"\0")
    if not zero or kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return None
    encoding = "latin-1"
    if kind == b"zTXt":
        rest = _inflated(rest[1:])
    elif kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        rest = _inflated(rest) if packed else rest
    return keyword.decode("latin-1"), rest[:MAX_TEXT].decode(encoding, "replace")


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_TEXT)
    except zlib.error:
        return b""


def parse(text: str) -> dict[str, str]:
    """Cut the lines of `parameters` into prompt, negative prompt and what the last line lists."""
    if not text.strip():
        return {}
    *lines, last = text.strip().split("\n")
    facts = {match[1].strip(): _unquoted(match[2].strip()) for match in _FACT.finditer(last)}
    if "Steps" not in facts:
        lines, facts = [*lines, last], {}
    joined = "\n".join(lines)
    prompt, _, negative = joined.partition(_NEGATIVE)
    return {"Prompt": prompt.strip(), "Negative prompt": negative.strip(), **_sized(facts)}


def _unquoted(value: str) -> str:
    return value[1:-1].replace('\\"', '"').replace("\\\\", "\\") if value.startswith('"') and len(value) > 1 else value


def _sized(facts: Mapping[str, str]) -> dict[str, str]:
    """Write sizes as two numbers, as the web UI does: Size-1, Size-2."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        size = _SIZE.fullmatch(value)
        found |= {name: value} if size is None else {f"{name}-1": size[1], f"{name}-2": size[2]}
    return found
