"""What other APIs' clients send, read within our own bounds, and the warning that some of it has no meaning here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from contract.base import Kind
from contract.job import JobWarning
from core.errors import UnsupportedMedia
from service.http.problems import cut, invalid, shown
from service.requests.bodies import SHORT_BYTES, Body, check_marks, decode_base64, media_type, parse_object, whole
from service.requests.kinds import KINDS

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, model: type[M], *, strict: bool = True) -> M:
    """Read a JSON body; a long one in a thread. Unless `strict`, numbers may be texts, or whole ones have a point.

    Raises:
        UnsupportedMedia, MalformedRequest, InvalidRequest, BodyTooLarge: it is none that `model` takes.
    """
    media = media_type(request)
    if media not in ("application/json", ""):
        bound = "application/json"
        raise UnsupportedMedia(f"Content-Type is {shown(media)!r}", field="Content-Type", value=media, bound=bound)
    data = await whole(request)
    if len(data) <= SHORT_BYTES:
        return _parsed(data, model, strict)
    return await asyncio.to_thread(_parsed, data, model, strict)


def _parsed(data: bytes, model: type[M], strict: bool) -> M:
    if len(data) > SHORT_BYTES:
        check_marks(data)
    try:
        return model.model_validate(parse_object(data), strict=strict)
    except ValidationError as error:
        raise invalid(error, model) from error


async def decoded(name: str, text: str) -> bytes:
    """Decode a file's base64; a long one in a thread. Raises as `decode_base64`."""
    if len(text) <= SHORT_BYTES:
        return decode_base64(name, text)
    return await asyncio.to_thread(decode_base64, name, text)


def post_body(kind: Kind, fields: Mapping[str, Any], files: Mapping[str, bytes]) -> Body:
    """Make the body that our own endpoint would have read; fields that are None are absent.

    Raises:
        InvalidRequest: a value is out of its bounds.
    """
    post = KINDS[kind].post
    try:
        sent = {name: value for name, value in fields.items() if value is not None}
        return Body(kind, post.model_validate(sent), dict(files))
    except ValidationError as error:
        raise invalid(error, post) from error


def told(field: str, message: str) -> JobWarning:
    """Make a warning."""
    return JobWarning(field=cut(field), message=cut(message))
