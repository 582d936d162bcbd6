"""Every error as RFC 9457 problem JSON that names field, value and bound; no traceback ever reaches a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import annotated_types
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from obstore.exceptions import BaseError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from core.errors import (
    InvalidRequest,
    LatentdError,
    MalformedRequest,
    NotFound,
    Problem,
    QueueFull,
    Unauthorized,
    Unavailable,
)
from core.redis_errors import is_transient

MEDIA_TYPE = "application/problem+json"
SHOWN_CHARACTERS = 200
CLIENT_LEFT = 499  # as nginx counts it

log = structlog.get_logger("service")


def shown(value: Any) -> Any:
    """`value` as a problem may repeat it: JSON, at most 200 characters, never a file's bytes."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 1e18:  # neither NaN nor a number of endless digits
        return value
    return _cut(value if isinstance(value, str) else _text(value))


def _text(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"a number of {value.bit_length()} bits"


def _cut(text: str) -> str:
    printable = text.encode("utf-8", "replace").decode()
    return printable if len(printable) <= SHOWN_CHARACTERS else printable[: SHOWN_CHARACTERS - 1] + "…"


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The problem as JSON with its status."""
    body = problem.model_dump(mode="json", exclude_none=True)
    return JSONResponse(body, status_code=problem.status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def error_response(error: LatentdError) -> JSONResponse:
    """Any error of the tree as a response; a full queue says when to come back."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, QueueFull) else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(error.problem().model_copy(update={"value": shown(error.value)}), headers)


def invalid(error: ValidationError, model: type[BaseModel]) -> InvalidRequest | MalformedRequest:
    """The first of pydantic's findings as an error of ours, with the bound that the field's declaration states."""
    return _refusal([dict(item) for item in error.errors(include_url=False)], model.model_fields)


def _refusal(found: list[dict[str, Any]], fields: Mapping[str, FieldInfo]) -> InvalidRequest | MalformedRequest:
    first = found[0]
    field = str(first["loc"][0]) if first["loc"] else None
    if field is None:
        return MalformedRequest("the body must be a JSON object", value=shown(first.get("input")), bound="an object")
    value, bound = shown(first.get("input")), _bound(first, field, fields)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if first["type"] == "extra_forbidden":
        return InvalidRequest(
            f"{_cut(field)} is not a field of this request{more}", field=_cut(field), value=value, bound=bound
        )
    if first["type"] == "missing":
        return InvalidRequest(f"{field} is required{more}", field=field, bound=bound)
    return InvalidRequest(f"{field} is {value!r}; it must be {bound}{more}", field=field, value=value, bound=bound)


def _bound(item: Mapping[str, Any], field: str, fields: Mapping[str, FieldInfo]) -> str:
    if item["type"] == "extra_forbidden":
        return "one of " + ", ".join(sorted(fields))
    if item["type"] == "literal_error":
        return str(item["ctx"]["expected"])
    return describe(fields[field]) if field in fields else str(item["msg"])


def describe(info: FieldInfo) -> str:
    """A field's type and bounds in words, such as `an integer from 1 to 1000`."""
    limits: dict[str, Any] = {}
    for item in info.metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if isinstance(item, annotated_types.BaseMetadata) and getattr(item, name, None) is not None:
                limits[name] = getattr(item, name)
    return f"{_noun(info)}{_range(limits)}"


def _noun(info: FieldInfo) -> str:
    text = str(info.annotation)
    if "Literal" in text:
        return "one of " + ", ".join(sorted(part for part in text.split("'")[1::2]))
    nouns = {"bool": "true or false", "int": "an integer", "float": "a number", "datetime": "a time"}
    return next((noun for name, noun in nouns.items() if name in text), "a text")


def _range(limits: Mapping[str, Any]) -> str:
    if "max_length" in limits:
        low = limits.get("min_length", 0)
        return f" of {f'{low} to' if low else 'at most'} {limits['max_length']} characters"
    low = f" from {limits['ge']}" if "ge" in limits else f" above {limits['gt']}" if "gt" in limits else ""
    high = f" to {limits['le']}" if "le" in limits else f" to {limits['lt'] - 1}" if "lt" in limits else ""
    return low + high


async def _on_latentd(request: Request, error: Exception) -> Response:
    assert isinstance(error, LatentdError)
    if error.status >= 500:
        log.warning("unable", detail=error.detail, status=error.status)
    return _counted(request, error)


def _counted(request: Request, error: LatentdError) -> Response:
    request.app.state.gateway.metrics.rejected.labels(error.slug).inc()
    return error_response(error)


async def _on_validation(request: Request, error: Exception) -> Response:
    """What FastAPI refuses in queries, paths and headers; the first part of `loc` says which of them."""
    assert isinstance(error, RequestValidationError)
    found = [{**item, "loc": item["loc"][1:]} for item in error.errors()]
    return _counted(request, _refusal(found, _declared(request)))


def _declared(request: Request) -> Mapping[str, FieldInfo]:
    """Fields of the route's query models and parameters, by name."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    fields: dict[str, FieldInfo] = {}
    for parameter in [*getattr(dependant, "query_params", []), *getattr(dependant, "path_params", [])]:
        model = parameter.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            fields |= model.model_fields
        else:
            fields[parameter.alias] = parameter.field_info
    return fields


async def _on_http(request: Request, error: Exception) -> Response:
    """Routing's own refusals: no such path, a method that the path lacks, a form that can't be parsed."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(NotFound(f"nothing is served at {_cut(request.url.path)}", value=request.url.path))
    if error.status_code == 400:
        return error_response(MalformedRequest(str(error.detail)))
    detail = f"{request.method} {_cut(request.url.path)}: {error.detail}"
    problem = Problem(title=str(error.detail), status=error.status_code, detail=detail)
    return problem_response(problem, error.headers)


def unavailable(error: RedisError) -> LatentdError:
    """503 for a Redis that is away or refuses writes; any other of its errors is ours."""
    if is_transient(error):
        return Unavailable("Redis doesn't answer, or takes no writes; nothing was changed")
    log.error("unexpected error of Redis", exc_info=error)
    return LatentdError("an unexpected error; the service's log has it under this request's id")


async def _on_redis(request: Request, error: Exception) -> Response:
    assert isinstance(error, RedisError)
    return await _on_latentd(request, unavailable(error))


async def _on_any(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    problem = LatentdError("an unexpected error; the service's log has it under this request's id").problem()
    return problem_response(problem)


async def _on_leaving(_request: Request, _error: Exception) -> Response:
    """The client left while it sent its body: nobody reads this, but it is counted as no mistake of the service's."""
    return Response(status_code=CLIENT_LEFT)


async def _on_storage(request: Request, error: Exception) -> Response:
    return await _on_latentd(request, Unavailable(f"the object storage doesn't answer: {type(error).__name__}"))


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(LatentdError, _on_latentd)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RedisError, _on_redis)
    app.add_exception_handler(BaseError, _on_storage)
    app.add_exception_handler(ClientDisconnect, _on_leaving)
    app.add_exception_handler(Exception, _on_any)
