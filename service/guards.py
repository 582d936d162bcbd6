"""What stands before every route: known hosts, own origins, bounded bodies, safe headers, request ids, counting."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
import uuid
from functools import lru_cache
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentd.errors import BodyTooLarge, Forbidden, HeadTooLarge, LatentdError, MalformedRequest, SlowClient
from latentd.settings import Settings
from service.access import SAFE_METHODS
from service.metrics import Metrics
from service.problems import error_response, shown
from service.protocol import HEAD_BYTES

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
# A client that already sends a body too large often reads no answer before it is done: this much is read and dropped.
DRAIN_BYTES = 256 * 2**20
DRAIN_S = 5.0
SLACK_S = 20.0
MIN_RATE = 16 * 1024  # bytes a second: 32 MiB may take half an hour
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = structlog.get_logger("service")


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def check_head(scope: Scope) -> None:
    """Raises HeadTooLarge for an address and headers of more than HEAD_BYTES; the parser bounds only slow ones."""
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > HEAD_BYTES:
        detail = f"the address and headers have {size} bytes; at most {HEAD_BYTES}"
        raise HeadTooLarge(detail, value=size, bound=HEAD_BYTES)


def check_host(headers: Headers, settings: Settings) -> None:
    """Raises Forbidden unless Host is loopback, the address listened on or one of LATENTD_ALLOWED_HOSTS."""
    sent = headers.get("host", "")
    try:
        name = urlsplit(f"//{sent}").hostname or ""
    except ValueError:
        name = ""
    known = {host.lower() for host in (*settings.allowed_hosts, settings.host)}
    if not (is_loopback(name) or (name and name in known)):
        detail = f"host {shown(sent)!r} is not served; add it to LATENTD_ALLOWED_HOSTS"
        raise Forbidden(detail, field="Host", value=sent, bound="loopback or LATENTD_ALLOWED_HOSTS")


def check_origin(method: str, headers: Headers) -> None:
    """Raises Forbidden where a page of another origin asks to change something."""
    origin = headers.get("origin")
    if method in SAFE_METHODS or origin is None:
        return
    if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        detail = f"origin {shown(origin)!r} may not change anything here"
        raise Forbidden(detail, field="Origin", value=origin, bound="the service's own origin")


def safe_headers(settings: Settings) -> dict[str, str]:
    """Headers of every answer; the page may show images from the storage, if clients are sent there."""
    public = urlsplit(settings.storage_public_url or "")
    images = f" {public.scheme}://{public.netloc}" if public.netloc else ""
    return {"Content-Security-Policy": CSP.format(images=images), **SAFE_HEADERS}


class BodyLimit:
    """Counts a body while it is read; over the limit the reader gets BodyTooLarge and the rest is dropped."""

    def __init__(self, receive: Receive, limit: int, headers: Headers) -> None:
        self._receive = receive
        self._limit = limit
        self._read = 0
        self._complete = False
        self._began = time.monotonic()
        self._expects = headers.get("expect", "").lower() == "100-continue"

    def _error(self, size: int) -> BodyTooLarge:
        bound = f"{self._limit} bytes"
        return BodyTooLarge(
            f"the body has {size} bytes or more; at most {bound}", field="body", value=size, bound=bound
        )

    async def check_length(self, headers: Headers) -> None:
        """Raises for a declared length over the limit."""
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise MalformedRequest("Content-Length is no number", field="Content-Length", value=length[:200])
        if int(length[:20]) > self._limit:
            if not self._expects:  # who waits for a 100 sends nothing when it doesn't come
                await self._drain()
            raise self._error(int(length[:20]))

    async def __call__(self) -> Message:
        message = await self._timed()
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
            self._read += len(message.get("body", b""))
            if self._read > self._limit:
                if message.get("more_body", False):
                    await self._drain()
                raise self._error(self._read)
        return message

    async def _timed(self) -> Message:
        """The next message; a body that isn't complete must come at MIN_RATE or faster after SLACK_S."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._began + SLACK_S + self._read / MIN_RATE - time.monotonic()):
                return await self._receive()
        except TimeoutError as error:
            bound = f"{MIN_RATE} bytes a second after {SLACK_S:g} s"
            detail = f"{self._read} bytes of the body came in {time.monotonic() - self._began:.0f} s"
            raise SlowClient(
                f"{detail}; it must come at {bound}", field="body", value=self._read, bound=bound
            ) from error

    async def _drain(self) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(DRAIN_S):
                while dropped < DRAIN_BYTES:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


class Guards:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, stopping: asyncio.Event) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._safe = safe_headers(settings)
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.get("x-request-id", "")
        safe = {**self._safe, "Connection": "close"} if self._stopping.is_set() else self._safe
        answer = _Answer(send, sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex, safe)
        structlog.contextvars.bind_contextvars(request_id=answer.request_id)
        try:
            await self._guarded(scope, headers, receive, answer)
        finally:
            self._count(scope, answer)
            structlog.contextvars.unbind_contextvars("request_id")

    async def _guarded(self, scope: Scope, headers: Headers, receive: Receive, answer: _Answer) -> None:
        limited = BodyLimit(receive, self._settings.max_body_mb * 2**20, headers)
        try:
            check_head(scope)
            check_host(headers, self._settings)
            check_origin(scope["method"], headers)
            await limited.check_length(headers)
        except LatentdError as error:
            self._metrics.rejected.labels(error.slug).inc()
            await error_response(error)(scope, receive, answer)
            return
        await self._app(scope, limited, answer)

    def _count(self, scope: Scope, answer: _Answer) -> None:
        seconds = time.monotonic() - answer.began
        route = route_template(scope)
        self._metrics.requests.labels(route, _method(scope["method"]), answer.status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log.info("request", route=route, method=scope["method"], status=answer.status, seconds=round(seconds, 4))


class _Answer:
    """`send` with the safe headers and the request's id added; remembers the status."""

    def __init__(self, send: Send, request_id: str, safe: dict[str, str]) -> None:
        self._send = send
        self._safe = safe
        self.request_id = request_id
        self.status = 500
        self.began = time.monotonic()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._safe.items():
                headers.setdefault(name, value)
            headers["X-Request-ID"] = self.request_id
        await self._send(message)


def _method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS") else "other"


def route_template(scope: Scope) -> str:
    """The route's template, never a path with ids; `static` for the page's files and for all that is unknown."""
    route = scope.get("route")
    return str(getattr(route, "path_format", None) or "static")
