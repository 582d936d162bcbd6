"""What OpenAI's clients read: images, events of a stream, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from contract.common import OutputFormat
from core.errors import Problem

# What our own posts call what these clients know by another name.
_PARAMETERS = {"width": "size", "height": "size", "num_images": "n"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class TokenDetails(BaseModel):
    """Which kinds of tokens a request had."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Tokens of the prompt, by the model's own tokenizer; pictures have none here."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int = 0
    total_tokens: int


class OpenAIImage(BaseModel):
    """One picture: `url` or `b64_json`."""

    b64_json: str | None = None
    url: str | None = None


class ImagesAnswer(BaseModel):
    """The answer without a stream."""

    created: int
    data: list[OpenAIImage]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str
    usage: Usage


class ImageEvent(BaseModel):
    """One event of a stream; `partial_image_index` is of partial images, `usage` of completed ones."""

    type: str
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: OutputFormat
    quality: Literal["auto"] = "auto"
    size: str
    partial_image_index: int | None = Field(default=None, exclude_if=lambda index: index is None)
    usage: Usage | None = Field(default=None, exclude_if=lambda usage: usage is None)


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(BaseModel):
    """OpenAI's form of a problem."""

    error: OpenAIError


def usage_of(tokens: int) -> Usage:
    """Make the usage of a prompt of so many tokens."""
    details = TokenDetails(text_tokens=tokens)
    return Usage(input_tokens=tokens, input_tokens_details=details, total_tokens=tokens)


def envelope(problem: Problem) -> ErrorEnvelope:
    """Write a problem as OpenAI does."""
    status = problem.status
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    slug = problem.type.rpartition(":")[2].replace("-", "_")
    code = "model_not_found" if (status, problem.field) == (404, "model") else _CODES.get(status, slug)
    field = problem.field
    param = None if field is None else _PARAMETERS.get(field, field)
    return ErrorEnvelope(error=OpenAIError(message=problem.detail, type=kind, param=param, code=code))


def error_response(problem: Problem, headers: Mapping[str, str]) -> Response:
    """Answer a problem: a wrong field is a 400 there, and a client is told whether to try again by itself."""
    status = 400 if problem.status == 422 else problem.status
    again = "true" if status in (408, 429, 503) else "false"
    body = envelope(problem).model_dump(mode="json")
    return JSONResponse(body, status, {**headers, "X-Should-Retry": again})
