"""Every error as RFC 9457 problem JSON that names field, value and bound; no traceback ever reaches a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import annotated_types
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from starlette.responses import Response
from starlette.types import Scope

from core.errors import InvalidRequest, LatentdError, MalformedRequest, Problem, QueueFull, Unauthorized

MEDIA_TYPE = "application/problem+json"
SHOWN_CHARACTERS = 200

ProblemFormat: TypeAlias = Callable[[Problem, Mapping[str, str]], Response]


def shown(value: Any) -> Any:
    """Make `value` what a problem may repeat: JSON, at most 200 characters, never a file's bytes."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 1e18:  # neither NaN nor a number of endless digits
        return value
    return cut(value if isinstance(value, str) else _text(value))


def _text(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"a number of {value.bit_length()} bits"


def cut(text: str) -> str:
    """Shorten a text to SHOWN_CHARACTERS, without lone surrogates."""
    printable = text.encode("utf-8", "replace").decode()
    return printable if len(printable) <= SHOWN_CHARACTERS else printable[: SHOWN_CHARACTERS - 1] + "…"


def problem_response(problem: Problem, headers: Mapping[str, str]) -> Response:
    """Write a problem as JSON with its status."""
    body = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, status_code=problem.status, headers=dict(headers), media_type=MEDIA_TYPE)


def problem_format(scope: Scope) -> ProblemFormat:
    """Choose how problems are written at a request's path: as its router's clients expect, by the longest prefix."""
    formats: Mapping[str, ProblemFormat] = scope["app"].state.problem_formats
    path = scope["path"]
    return formats[max((prefix for prefix in formats if path.startswith(prefix)), key=len, default="/")]


def error_response(error: LatentdError, scope: Scope) -> Response:
    """Write any error of the tree; a full queue says when to come back."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFull) else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return problem_format(scope)(error.problem().model_copy(update={"value": shown(error.value)}), headers)


def invalid(error: ValidationError, model: type[BaseModel]) -> InvalidRequest | MalformedRequest:
    """Make the first of pydantic's findings as an error of ours, with the bound that the field's declaration states."""
    return refusal([dict(item) for item in error.errors(include_url=False)], model.model_fields)


def refusal(found: list[dict[str, Any]], fields: Mapping[str, FieldInfo]) -> InvalidRequest | MalformedRequest:
    """Make the first of some findings an error of ours; `fields` declare what they are about."""
    first = found[0]
    field = str(first["loc"][0]) if first["loc"] else None
    if field is None:
        return MalformedRequest("the body must be a JSON object", value=shown(first.get("input")), bound="an object")
    value, bound = shown(first.get("input")), _bound(first, field, fields)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if len(first["loc"]) > 1:  # inside a field, of which the finding says more than the field's declaration
        inside, told = cut(".".join(map(str, first["loc"]))), str(first["msg"])
        detail = f"{inside} is {value!r}: {told[0].lower()}{told[1:]}{more}"
        return InvalidRequest(detail, field=field, value=value, bound=told)
    if first["type"] == "extra_forbidden":
        return InvalidRequest(
            f"{cut(field)} is not a field of this request{more}", field=cut(field), value=value, bound=bound
        )
    if first["type"] == "missing":
        return InvalidRequest(f"{field} is required{more}", field=field, bound=bound)
    return InvalidRequest(f"{field} is {value!r}; it must be {bound}{more}", field=field, value=value, bound=bound)


def _bound(item: Mapping[str, Any], field: str, fields: Mapping[str, FieldInfo]) -> str:
    if item["type"] == "extra_forbidden":
        return "one of " + ", ".join(sorted(fields))
    if item["type"] == "literal_error":
        return str(item["ctx"]["expected"])
    if item["type"] == "value_error":  # of a check of ours
        return str(item["msg"]).removeprefix("Value error, ")
    return describe(fields[field]) if field in fields else str(item["msg"])


def describe(info: FieldInfo) -> str:
    """Put a field's type and bounds into words, such as `an integer from 1 to 1000`."""
    limits: dict[str, Any] = {}
    for item in info.metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if isinstance(item, annotated_types.BaseMetadata) and getattr(item, name, None) is not None:
                limits[name] = getattr(item, name)
    noun = _noun(info)
    return f"{noun}{_range(limits, 'items' if noun == 'a list' else 'characters')}"


def _noun(info: FieldInfo) -> str:
    text = str(info.annotation)
    if "Literal" in text:
        return "one of " + ", ".join(sorted(part for part in text.split("'")[1::2]))
    if text.startswith("list["):
        return "a list"
    nouns = {"bool": "true or false", "int": "an integer", "float": "a number", "datetime": "a time"}
    return next((noun for name, noun in nouns.items() if name in text), "a text")


def _range(limits: Mapping[str, Any], unit: str) -> str:
    if "max_length" in limits:
        low = limits.get("min_length", 0)
        return f" of {f'{low} to' if low else 'at most'} {limits['max_length']} {unit}"
    low = f" from {limits['ge']}" if "ge" in limits else f" above {limits['gt']}" if "gt" in limits else ""
    high = f" to {limits['le']}" if "le" in limits else f" to {limits['lt'] - 1}" if "lt" in limits else ""
    return low + high
