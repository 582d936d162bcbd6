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
from service.requests.kinds import KINDS, TaskKind
from service.requests.posts import Post

MAX_FIELDS = 64


@dataclass(frozen=True, slots=True)
class Body:
    """A validated post and its pictures, unread."""

    kind: Kind
    post: Post
    files: Mapping[str, bytes]

    @property
    def task(self) -> TaskKind[Any]:
        return KINDS[self.kind]

    @property
    def digest(self) -> str:
        """SHA-256 of the request before defaults, for Idempotency-Key: encoding and order of fields don't count."""
        sent = self.post.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        text = json.dumps([self.kind, sent, hashes], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


async def read_body(request: Request, task: TaskKind[Any]) -> Body:
    """Read and validate a request.

    Raises:
        UnsupportedMedia: a content type that the endpoint doesn't read.
        MalformedRequest: not JSON, not a form.
        InvalidRequest: a field or picture is missing, unknown, twice there, of the wrong type or out of bounds.
        BodyTooLarge: while reading.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return _from_json(await request.body(), task)
    if content_type == "multipart/form-data" and task.files:
        return await _from_form(request, task)
    accepted = "application/json" + (" or multipart/form-data" if task.files else "")
    detail = f"Content-Type is {shown(content_type)!r}; {task.kind} reads {accepted}"
    raise UnsupportedMedia(detail, field="Content-Type", value=content_type, bound=accepted)


def _from_json(data: bytes, task: TaskKind[Any]) -> Body:
    try:
        fields = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}", bound="a JSON object") from error
    if not isinstance(fields, dict):
        raise MalformedRequest("the body is no JSON object", value=shown(fields), bound="a JSON object")
    files = {name: _decode(name, fields.pop(name)) for name in task.files if fields.get(name) is not None}
    try:
        return _body(task, task.post.model_validate(fields, strict=True), files)
    except ValidationError as error:
        raise invalid(error, task.post) from error


async def _from_form(request: Request, task: TaskKind[Any]) -> Body:
    async with request.form(max_files=len(task.files) + 1, max_fields=MAX_FIELDS) as form:
        fields: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for name, value in form.multi_items():
            if name in fields or name in files:
                raise InvalidRequest(f"{name} is there twice", field=name, bound="once")
            if isinstance(value, UploadFile):
                _check_part(name, task)
                files[name] = await value.read()
            elif name in task.files:
                files[name] = _decode(name, value)
            else:
                fields[name] = value
    try:
        return _body(task, task.post.model_validate_strings(fields), files)
    except ValidationError as error:
        raise invalid(error, task.post) from error


def _check_part(name: str, task: TaskKind[Any]) -> None:
    if name not in task.files:
        known = ", ".join(task.files)
        raise InvalidRequest(f"{name!r} is no file part of {task.kind}; those are {known}", field=name, bound=known)


def _body(task: TaskKind[Any], post: Post, files: Mapping[str, bytes]) -> Body:
    for name in task.files:
        if name not in files:
            raise InvalidRequest(f"{name} is required", field=name, bound="a PNG, JPEG or WebP file")
    return Body(task.kind, post, files)


def _decode(name: str, value: Any) -> bytes:
    """Decode base64, with or without a `data:` prefix and line breaks."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be base64 text", field=name, value=shown(value), bound="base64 text")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{name} is not base64", field=name, value=shown(value), bound="base64 text") from error
