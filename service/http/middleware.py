"""What stands before every route: known hosts, own origins, bounded bodies, safe headers, request ids, counting."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.errors import LatentdError
from core.settings import Settings
from service.http.bodies import HOLD, LET_GO, BodiesHeld, BodyLimit, check_encoding, check_head
from service.http.handlers import broken_off, unexpected
from service.http.hosts import check_host, known_hosts
from service.http.origins import OriginPolicy
from service.http.problems import error_response
from service.http.targets import normalised

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:{images}; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger("service")


def safe_headers(settings: Settings) -> dict[str, str]:
    """Make the headers of every answer; the page may show images from the storage, if clients are sent there."""
    public = urlsplit(settings.storage_public_url or "")
    images = f" {public.scheme}://{public.netloc}" if public.netloc else ""
    return {"Content-Security-Policy": CSP.format(images=images), **SAFE_HEADERS}


class RequestCounts(Protocol):
    """Who is told of every request's end."""

    def refused(self, reason: str) -> None:
        """Count a request that was refused, by the slug of its problem."""

    def held(self, size: int) -> None:
        """Note how many bytes of bodies are held now."""

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer that has ended."""


class EdgeMiddleware:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, counts: RequestCounts, stopping: asyncio.Event) -> None:
        self._app = app
        self._settings = settings
        self._counts = counts
        self._safe = _encoded(safe_headers(settings))
        self._hosts = known_hosts(settings)
        self._origins = OriginPolicy(settings)
        self._prefix = settings.public_path
        self._stopping = stopping
        self._bodies = BodiesHeld(settings.max_body_mb * 2**20, counts.held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        answer = _Answer(send, request_id, self._headers(headers), head=scope["method"] == "HEAD")
        structlog.contextvars.bind_contextvars(request_id=answer.request_id)
        routed = dict(scope)
        try:
            await self._guarded(routed, receive, answer)
        except Exception as error:
            await self._failed(error, routed, receive, answer)
        finally:
            self._count(routed, scope["method"], answer)
            structlog.contextvars.unbind_contextvars("request_id")

    def _headers(self, headers: Headers) -> Mapping[bytes, bytes]:
        """Make the headers of an answer to these."""
        closing = {"Connection": "close"} if self._stopping.is_set() else {}
        more = {**self._origins.cors_headers(headers), **closing}
        return {**self._safe, **_encoded(more)} if more else self._safe

    async def _guarded(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        """Answer a request that passes every check; `scope` becomes what routes read."""
        try:
            check_head(scope)
            asked = normalised(scope, self._prefix)
            headers = Headers(scope=asked)
            check_host(asked["path"], headers, self._hosts)
            self._origins.check(asked, headers)
            limited = BodyLimit(receive, self._bodies, headers)
            await limited.check_length(headers)
            check_encoding(headers)
        except LatentdError as error:
            self._counts.refused(error.slug)
            await error_response(error, scope)(scope, receive, answer)
            return
        scope.update(asked)
        if (response := self._without_route(scope, headers)) is not None:
            await response(scope, receive, answer)
            return
        scope[LET_GO], scope[HOLD] = limited.let_go, limited.hold
        try:
            await self._app(scope, limited, answer)
        finally:
            limited.let_go()

    async def _failed(self, error: Exception, scope: Scope, receive: Receive, answer: _Answer) -> None:
        """Answer what no handler did; of an answer that has begun the server closes the connection."""
        if answer.begun:
            broken_off(error)
        else:
            await error_response(unexpected(error, scope["path"]), scope)(scope, receive, answer)

    def _without_route(self, scope: Scope, headers: Headers) -> Response | None:
        """Answer what no route is for: a browser that asks for a page, the page's address without its slash."""
        if (allowed := self._origins.preflight(scope, headers)) is not None:
            return Response(status_code=204, headers=allowed)
        if self._prefix and scope["path"] == self._prefix:
            return RedirectResponse(f"{self._prefix}/", 308)
        return None

    def _count(self, scope: Scope, method: str, answer: _Answer) -> None:
        seconds = time.monotonic() - answer.began
        route = route_template(scope)
        self._counts.answered(route, _method(method), answer.status, seconds)
        log.info("request", route=route, method=method, status=answer.status, seconds=round(seconds, 4))


def _encoded(headers: Mapping[str, str]) -> Mapping[bytes, bytes]:
    """Write headers as ASGI has them."""
    return {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}


class _Answer:
    """`send` with the safe headers and the request's id added; remembers the status. HEAD ends with the headers."""

    def __init__(self, send: Send, request_id: str, safe: Mapping[bytes, bytes], *, head: bool) -> None:
        self._send = send
        self._safe = safe
        self._head = head
        self.request_id = request_id
        self.status = 500
        self.begun = False
        self.began = time.monotonic()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.begun = message["status"], True
            sent = {name.lower() for name, _ in message["headers"]}
            added = [item for item in self._safe.items() if item[0] not in sent]
            headers = [*message["headers"], *added, (b"x-request-id", self.request_id.encode())]
            await self._send({**message, "headers": headers})
            if self._head:  # at once: an event stream's first bytes, or its end, may be far away
                await self._send({"type": "http.response.body"})
        elif not self._head:
            await self._send(message)


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS") else "other"


def route_template(scope: Scope) -> str:
    """Return the route's template, never a path with ids; `static` for the page's files and all that is unknown."""
    route = scope.get("route")
    return str(getattr(route, "path_format", None) or "static")
