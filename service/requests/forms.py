"""Multipart forms (RFC 7578): texts are UTF-8 whatever the client names, and a form without its end is refused.

A whole body is cut at its boundary, so that the time is linear in its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from service.http.problems import cut, shown

MAX_PARTS = 64
HEAD_BYTES = 4096  # of one part's headers
BOUNDARY_CHARACTERS = 70
CODECS = ("utf-8", "utf8", "us-ascii", "ascii")

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"\s*|([^;"]*))', re.DOTALL)
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition:\s*form-data\s*([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form; a file is one with a file name."""

    name: str
    is_file: bool
    data: bytes

    @property
    def text(self) -> str:
        """What a part without a file name says.

        Raises:
            InvalidRequest: it isn't UTF-8.
        """
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{self.name} is no UTF-8 text", field=self.name, bound="text in UTF-8") from error


def read_form(content_type: str, body: bytes) -> list[Part]:
    """Cut a multipart body into its parts.

    Raises:
        UnsupportedMedia: the client names another charset than UTF-8.
        MalformedRequest: no boundary, too many parts, a part without a name, no last boundary.
    """
    delimiter = b"\r\n--" + _boundary(content_type)
    first = body if body.startswith(delimiter[2:]) else body[body.find(delimiter) + 2 :]
    if not first.startswith(delimiter[2:]):
        raise MalformedRequest("the form has no part", bound="parts between boundaries")
    pieces = first[len(delimiter) - 2 :].split(delimiter, MAX_PARTS)
    ends = next((k for k, piece in enumerate(pieces) if piece.startswith(b"--")), None)
    if ends is None and len(pieces) > MAX_PARTS:
        raise MalformedRequest(f"the form has more than {MAX_PARTS} parts", bound=f"{MAX_PARTS} parts")
    if ends is None:
        raise MalformedRequest("the form ends before its last boundary", bound="a form that is complete")
    return [_part(piece) for piece in pieces[:ends]]


def _boundary(content_type: str) -> bytes:
    parameters = _parameters(content_type.partition(";")[1] + content_type.partition(";")[2])
    charset = parameters.get("charset", CODECS[0])
    if charset.lower() not in CODECS:
        detail = f"Content-Type names the charset {shown(charset)!r}; forms are read as UTF-8"
        raise UnsupportedMedia(detail, field="Content-Type", value=cut(charset), bound="charset=utf-8, or none")
    boundary = parameters.get("boundary", "")
    if not (0 < len(boundary) <= BOUNDARY_CHARACTERS and boundary.isascii()):
        bound = f"multipart/form-data with a boundary of 1 to {BOUNDARY_CHARACTERS} characters"
        raise MalformedRequest("Content-Type names no boundary", field="Content-Type", bound=bound)
    return boundary.encode()


def _part(piece: bytes) -> Part:
    """Read what stands behind a delimiter: the line's end, headers, an empty line, the data."""
    head, blank, _ = piece[: HEAD_BYTES + 4].partition(b"\r\n\r\n")
    disposition = _DISPOSITION.search(head.lstrip(b" \t"))
    if not blank or disposition is None:
        bound = f"Content-Disposition: form-data, in at most {HEAD_BYTES} bytes of headers"
        raise MalformedRequest("a part of the form has no Content-Disposition", bound=bound)
    parameters = _parameters(disposition[1].decode("utf-8", "replace"))
    if not parameters.get("name"):
        raise MalformedRequest("a part of the form has no name", bound='Content-Disposition: form-data; name="…"')
    is_file = not {"filename", "filename*"}.isdisjoint(parameters)
    return Part(parameters["name"], is_file, piece[len(head) + len(blank) :])


def _parameters(text: str) -> dict[str, str]:
    """Read `; name=value; name="value"`, up to what is neither."""
    found: dict[str, str] = {}
    at = 0
    while (match := _PARAMETER.match(text, at)) is not None:
        quoted, token = match[2], match[3]
        found[match[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else token.strip()
        at = match.end()
    return found
