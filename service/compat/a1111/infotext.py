"""What the text of a PNG says of how it was made: the `parameters` lines that the web UI's tools read."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping

from core.errors import InvalidRequest

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT = 2**18
MAX_TEXTS = 64
MAX_CHUNKS = 20_000  # of a PNG: a picture of 16 MP in pieces of 8 KiB has a third of it
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_NEGATIVE = "Negative prompt:"
# A name begins with no space: one that might would be sought anew from each of a run of spaces.
_FACT = re.compile(r'([\w./()+-][\w ./()+-]{0,63}?):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")


def read_texts(data: bytes) -> dict[str, str]:
    """Read the text chunks of a PNG by their keyword, each cut at MAX_TEXT; no pixel is decoded.

    Raises:
        InvalidRequest: no PNG, or one of more than MAX_TEXTS texts or MAX_CHUNKS chunks.
    """
    if not data.startswith(SIGNATURE):
        raise InvalidRequest("image is no PNG file", field="image", value=f"{len(data)} bytes", bound="a PNG file")
    texts: list[tuple[str, str]] = []  # not yet by keyword: those of one keyword cost as much as others
    for kind, chunk in _chunks(data):
        text = _text(kind, chunk)
        if text is not None:
            texts.append(text)
        if len(texts) > MAX_TEXTS:
            raise _too_many(f"{MAX_TEXTS} texts")
    return dict(texts)


def _too_many(bound: str) -> InvalidRequest:
    return InvalidRequest(f"image has more than {bound}", field="image", value="more", bound=bound)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, count = len(SIGNATURE), 0
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, data[at + 8 : at + 8 + length] if kind in TEXTS else b""
        at, count = at + 12 + length, count + 1
        if count > MAX_CHUNKS:
            raise _too_many(f"{MAX_CHUNKS} chunks")


def _text(kind: bytes, chunk: bytes) -> tuple[str, str] | None:
    keyword, zero, rest = chunk.partition(b"\0")
    if not zero:
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
    facts = {match[1].rstrip(): _unquoted(match[2].strip()) for match in _FACT.finditer(last)}
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
