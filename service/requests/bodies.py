"""Bodies read into posts: JSON (pictures as base64) or multipart (pictures as parts, fields as form fields)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json

from contract.add_ons import MAX_CONTROLS
from contract.base import Kind
from contract.uploads import CONTROL, control_name
from core.errors import InvalidRequest, MalformedRequest, UnsupportedMedia
from service.http.problems import invalid, refusal, shown
from service.requests.forms import read_form
from service.requests.kinds import KINDS, TaskKind
from service.requests.posts import Drawn, Post

SHORT_BYTES = 64 * 1024  # what is parsed on the event loop
MAX_MARKS = 20_000  # commas, colons and brackets of a JSON body: five times what the longest prompt can have
_SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Body:
    """A validated post and its pictures, unread."""

    kind: Kind
    post: Post
    files: dict[str, bytes]

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

    def drop_files(self) -> None:
        """Forget the pictures, which are stored by now: whoever waits for the job may have the body for minutes."""
        self.files.clear()


def media_type(request: Request) -> str:
    """Return the body's content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def whole(request: Request) -> bytes:
    """Read all bytes of a body; a request of Starlette's that is asked for them keeps them until its end."""
    return b"".join([chunk async for chunk in request.stream()])


async def read_body(request: Request, task: TaskKind[Any]) -> Body:
    """Read and validate a request; a long one in a thread.

    Raises:
        UnsupportedMedia: a content type that the endpoint doesn't read.
        MalformedRequest: not JSON, not a form, or one without its end.
        InvalidRequest: a field or picture is missing, unknown, twice there, of the wrong type or out of bounds.
        BodyTooLarge: while reading.
    """
    media = media_type(request)
    if media == "application/json":
        parse = partial(_from_json, task=task)
    elif media == "multipart/form-data" and task.in_forms:
        parse = partial(_from_form, content_type=request.headers["content-type"], task=task)
    else:
        accepted = "application/json" + (" or multipart/form-data" if task.in_forms else "")
        detail = f"Content-Type is {shown(media)!r}; {task.kind} reads {accepted}"
        raise UnsupportedMedia(detail, field="Content-Type", value=media, bound=accepted)
    data = await whole(request)
    return parse(data) if len(data) <= SHORT_BYTES else await asyncio.to_thread(parse, data)


def _from_json(data: bytes, *, task: TaskKind[Any]) -> Body:
    if len(data) > SHORT_BYTES:
        _check_long(data, task)
    fields = parse_object(data)
    _check_known(fields, task)
    files = {name: decode_base64(name, fields.pop(name)) for name in task.files if fields.get(name) is not None}
    if task.controlled:
        files |= _control_pictures(fields)
    try:
        return _body(task, task.post.model_validate(fields, strict=True), files)
    except ValidationError as error:
        raise invalid(error, task.post) from error


def _control_pictures(fields: dict[str, Any]) -> dict[str, bytes]:
    """Take the pictures of controls out of them; what else is wrong with them is found as they are validated."""
    controls, files = fields.get("controls"), {}
    for number, control in enumerate(controls if isinstance(controls, list) else ()):
        if isinstance(control, dict) and control.get("image") is not None:
            picture = decode_base64("controls", control.pop("image"), f"controls.{number}.image")
            files[control_name(number)] = picture
    return files


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        MalformedRequest: it isn't JSON, or no object.
    """
    try:
        fields = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}", bound="a JSON object") from error
    if not isinstance(fields, dict):
        raise MalformedRequest("the body is no JSON object", value=shown(fields), bound="a JSON object")
    return fields


def _check_long(data: bytes, task: TaskKind[Any]) -> None:
    """Refuse what would make millions of objects before it is parsed: only pictures are long, and they are one text."""
    with suppress(ValueError):
        beginning = from_json(data[:SHORT_BYTES], allow_inf_nan=False, allow_partial=True)
        if isinstance(beginning, dict):
            _check_known(beginning, task)
    check_marks(data)


def check_marks(data: bytes) -> None:
    """Check that a JSON body makes no more objects than a request can have.

    Raises:
        MalformedRequest: it does.
    """
    marks = sum(data.count(mark) for mark in (b",", b":", b"[", b"{"))
    if marks > MAX_MARKS:
        detail = f"the body has {marks} commas, colons and brackets; at most {MAX_MARKS}"
        raise MalformedRequest(detail, field="body", value=marks, bound=MAX_MARKS)


def _check_known(fields: Mapping[str, Any], task: TaskKind[Any]) -> None:
    """Refuse the first field that is none of the task's."""
    known = task.post.model_fields
    for name, value in fields.items():
        if name not in known and name not in task.files:
            raise refusal([{"type": "extra_forbidden", "loc": (name,), "input": value}], known)


def _from_form(data: bytes, *, content_type: str, task: TaskKind[Any]) -> Body:
    fields: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for part in read_form(content_type, data):
        if part.name in fields or part.name in files:
            raise InvalidRequest(f"{part.name} is there twice", field=part.name, bound="once")
        if part.is_file:
            _check_part(part.name, task)
            files[part.name] = part.data
        elif part.name in _file_names(task):
            files[part.name] = decode_base64(part.name, part.text)
        else:
            fields[part.name] = part.text
    try:
        return _body(task, task.post.model_validate_strings(fields), files)
    except ValidationError as error:
        raise invalid(error, task.post) from error


def _file_names(task: TaskKind[Any]) -> tuple[str, ...]:
    return (*task.files, *(control_name(i) for i in range(MAX_CONTROLS if task.controlled else 0)))


def _check_part(name: str, task: TaskKind[Any]) -> None:
    if name not in _file_names(task):
        known = ", ".join(_file_names(task))
        raise InvalidRequest(f"{name!r} is no file part of {task.kind}; those are {known}", field=name, bound=known)


def _body(task: TaskKind[Any], post: Post, files: dict[str, bytes]) -> Body:
    for name in task.files:
        if name not in files:
            raise InvalidRequest(f"{name} is required", field=name, bound="a PNG, JPEG or WebP file")
    _check_controls(post, files)
    return Body(task.kind, post, files)


def _check_controls(post: Post, files: Mapping[str, bytes]) -> None:
    """Check that each control has its picture, and each such picture its control."""
    count = len(post.controls or ()) if isinstance(post, Drawn) else 0
    wanted, sent = {control_name(i) for i in range(count)}, {name for name in files if name.startswith(CONTROL)}
    for name in sorted(wanted - sent):
        number = name.rpartition("_")[2]
        detail = f"controls.{number}.image is required; in forms it is the file {name}"
        raise InvalidRequest(detail, field="controls", bound="a PNG, JPEG or WebP file")
    for name in sorted(sent - wanted):
        raise InvalidRequest(f"{name} is the picture of no control; there are {count}", field="controls", value=name)


def decode_base64(field: str, value: Any, name: str | None = None) -> bytes:
    """Decode base64, with or without a `data:` prefix and line breaks; `name` is more exact than the field's.

    Raises:
        InvalidRequest: `value` is none.
    """
    name = name or field
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be base64 text", field=field, value=shown(value), bound="base64 text")
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{name} is not base64", field=field, value=shown(value), bound="base64 text") from error
