"""Bodies read into posts: JSON (pictures as base64) or multipart (pictures as parts, fields as form fields)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import UploadFile

from contract.base import Kind
from core.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from service.http.problems import invalid, shown
from service.requests.posts import (
    Class2ImgPost,
    Img2ImgPost,
    InpaintPost,
    Post,
    Semantic2ImgPost,
    Txt2ImgPost,
    UpscalePost,
)

POSTS: dict[Kind, type[Post]] = {
    "txt2img": Txt2ImgPost,
    "inpaint": InpaintPost,
    "upscale": UpscalePost,
    "img2img": Img2ImgPost,
    "class2img": Class2ImgPost,
    "semantic2img": Semantic2ImgPost,
}
FILES: dict[Kind, tuple[str, ...]] = {
    "txt2img": (),
    "inpaint": ("image", "mask"),
    "upscale": ("image",),
    "img2img": ("image",),
    "class2img": (),
    "semantic2img": ("image",),
}
MAX_FIELDS = 64


@dataclass(frozen=True, slots=True)
class Body:
    """A validated post and its pictures, unread."""

    kind: Kind
    post: Post
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of the request before defaults, for Idempotency-Key: encoding and order of fields don't count."""
        sent = self.post.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        text = json.dumps([self.kind, sent, hashes], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


async def read_body(request: Request, kind: Kind) -> Body:
    """Read and validate a request of `kind`.

    Raises:
        UnsupportedMedia: a content type that the endpoint doesn't read.
        MalformedRequest: not JSON, not a form.
        InvalidRequest: a field or picture is missing, unknown, twice there, of the wrong type or out of bounds.
        BodyTooLarge: while reading.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return _from_json(await request.body(), kind)
    if content_type == "multipart/form-data" and FILES[kind]:
        return await _from_form(request, kind)
    accepted = "application/json" + (" or multipart/form-data" if FILES[kind] else "")
    detail = f"Content-Type is {shown(content_type)!r}; {kind} reads {accepted}"
    raise UnsupportedMedia(detail, field="Content-Type", value=content_type, bound=accepted)


def _from_json(data: bytes, kind: Kind) -> Body:
    try:
        fields = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}", bound="a JSON object") from error
    if not isinstance(fields, dict):
        raise MalformedRequest("the body is no JSON object", value=shown(fields), bound="a JSON object")
    files = {name: _decode(name, fields.pop(name)) for name in FILES[kind] if fields.get(name) is not None}
    model = POSTS[kind]
    try:
        return _body(kind, model.model_validate(fields, strict=True), files)
    except ValidationError as error:
        raise invalid(error, model) from error


async def _from_form(request: Request, kind: Kind) -> Body:
    async with request.form(max_files=len(FILES[kind]) + 1, max_fields=MAX_FIELDS) as form:
        fields: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for name, value in form.multi_items():
            if name in fields or name in files:
                raise InvalidRequest(f"{name} is there twice", field=name, bound="once")
            if isinstance(value, UploadFile):
                _check_part(name, kind)
                files[name] = await value.read()
            elif name in FILES[kind]:
                files[name] = _decode(name, value)
            else:
                fields[name] = value
    model = POSTS[kind]
    try:
        return _body(kind, model.model_validate_strings(fields), files)
    except ValidationError as error:
        raise invalid(error, model) from error


def _check_part(name: str, kind: Kind) -> None:
    if name not in FILES[kind]:
        known = ", ".join(FILES[kind])
        raise InvalidRequest(f"{name!r} is no file part of {kind}; those are {known}", field=name, bound=known)


def _body(kind: Kind, post: Post, files: Mapping[str, bytes]) -> Body:
    for name in FILES[kind]:
        if name not in files:
            raise InvalidRequest(f"{name} is required", field=name, bound="a PNG, JPEG or WebP file")
    return Body(kind, post, files)


def _decode(name: str, value: Any) -> bytes:
    """Base64, with or without a `data:` prefix and line breaks."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be base64 text", field=name, value=shown(value), bound="base64 text")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{name} is not base64", field=name, value=shown(value), bound="base64 text") from error
