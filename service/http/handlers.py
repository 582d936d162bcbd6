"""Handlers of every error that a route raises: each is answered as a problem, and counted."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from obstore.exceptions import BaseError
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from core.errors import LatentdError, MalformedRequest, NotFound, Problem, Unavailable
from core.redis_errors import is_read_only, is_transient
from core.storage import told
from service.http.problems import cut, error_response, problem_format, problem_response, refusal
from service.state import Gateway

ANSWERED = (LatentdError, RedisError, BaseError)
CLIENT_LEFT = 499  # as nginx counts it
# An answer of Redis that was lost says nothing of whether the change before it was made.
_UNKNOWN = {
    "POST": "; whether the job was made is unknown: ask again with the same Idempotency-Key, which makes no second job",
    "DELETE": "; whether it was done is unknown: ask again",
}
_UNEXPECTED = "an unexpected error; the service's log has it under this request's id"

log = structlog.get_logger("service")


async def _on_answered(request: Request, error: Exception) -> Response:
    location = _made(request)
    ours = await as_ours(request.app.state.gateway, error, request.method, made=location is not None)
    answer = error_response(ours, request.scope)
    if location is not None:
        answer.headers["Location"] = location
    return answer


async def as_ours(gateway: Gateway, error: Exception, method: str, *, made: bool) -> LatentdError:
    """Make one of ANSWERED what a client is told, logged and counted; `made`: the job is there, whatever happened."""
    ours = await _translated(gateway, error, method, made=made)
    if ours.status >= 500:
        cause = ours.__cause__
        said = {"cause": told(cause)} if isinstance(cause, OSError | BaseError) else {}
        log.warning("unable", detail=ours.detail, status=ours.status, **said)
    gateway.metrics.rejected.labels(ours.slug).inc()
    return ours


async def _translated(gateway: Gateway, error: Exception, method: str, *, made: bool) -> LatentdError:
    if isinstance(error, LatentdError):  # of Redis, too, where its layout is refused
        return error
    if isinstance(error, RedisError):
        if is_read_only(error):
            await gateway.forget_connections()
        return _unavailable(error, method, made=made)
    assert isinstance(error, BaseError)
    away = Unavailable(f"the object storage doesn't answer: {type(error).__name__}")
    away.__cause__ = error
    return away


def _made(request: Request) -> str | None:
    """Return where the job is that the request has made before it failed."""
    location: str | None = getattr(request.state, "location", None)
    return location


async def _on_validation(request: Request, error: Exception) -> Response:
    """Answer what FastAPI refuses in queries, paths and headers; the first part of `loc` says which of them."""
    assert isinstance(error, RequestValidationError)
    found = [{**item, "loc": item["loc"][1:]} for item in error.errors()]
    return await _on_answered(request, refusal(found, _declared(request)))


def _declared(request: Request) -> Mapping[str, FieldInfo]:
    """Collect the fields of the route's query models and parameters, by name."""
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
    """Answer routing's own refusals: no such path, a method that the path lacks, a form that can't be parsed."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        unknown = NotFound(f"nothing is served at {cut(request.url.path)}", value=request.url.path)
        return error_response(unknown, request.scope)
    if error.status_code == 400:
        return error_response(MalformedRequest(str(error.detail)), request.scope)
    detail = f"{request.method} {cut(request.url.path)}: {error.detail}"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request.scope))
        detail += f"; it takes {headers['Allow']}"
    problem = Problem(title=str(error.detail), status=error.status_code, detail=detail)
    return problem_format(request.scope)(problem, headers)


def _allowed(scope: Scope) -> list[str]:
    """Return the methods of all routes at a path, where the router names those of the first; files have no route."""
    routes = scope["app"].routes
    methods = [
        method
        for method in ("GET", "POST", "DELETE")
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ] or ["GET"]
    return [each for method in methods for each in ((method, "HEAD") if method == "GET" else (method,))]


def _unavailable(error: RedisError, method: str, *, made: bool) -> LatentdError:
    """Make an error of Redis one of ours: 503 where it is away or refuses writes, else 500."""
    if is_transient(error):
        unknown = "" if made else _UNKNOWN.get(method, "")
        return Unavailable(f"Redis doesn't answer, or takes no writes{unknown}")
    log.error("unexpected error of Redis", exc_info=error)
    return LatentdError(_UNEXPECTED)


def unexpected(error: Exception, path: str) -> LatentdError:
    """Log an error that no handler takes, and make of it what its client is told."""
    log.error("unexpected error", path=path, exc_info=error)
    return LatentdError(_UNEXPECTED)


def broken_off(error: Exception) -> None:
    """Log why an answer that had begun won't end: with its traceback only where that is a mistake of ours."""
    cause = error.__cause__ or error  # Starlette wraps what a handler of ours would have answered
    ours = not isinstance(cause, LatentdError | BaseError | ClientDisconnect)
    if isinstance(cause, RedisError):
        ours = not is_transient(cause)
    if ours:
        log.error("an answer was broken off", exc_info=cause)
    else:
        log.warning("an answer was broken off", error=f"{type(cause).__name__}: {cause}")


async def _on_leaving(_request: Request, _error: Exception) -> Response:
    """Answer a client that left while it sent its body: nobody reads it, but it counts as no mistake of ours."""
    return Response(status_code=CLIENT_LEFT)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem; a router whose clients expect another format adds its prefix."""
    app.state.problem_formats = {"/": problem_response}
    for kind in ANSWERED:
        app.add_exception_handler(kind, _on_answered)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_leaving)
