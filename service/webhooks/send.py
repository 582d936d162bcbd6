"""One webhook over one connection of its own: resolved once, checked, and connected to exactly what was checked.

A library's client would resolve the name again (DNS rebinding) and follow redirects; this one speaks the little HTTP
that a POST needs.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from typing import TypeAlias

from core.clock import CLOCK
from core.errors import ConfigurationError
from core.settings import Settings
from core.version import __version__
from service.webhooks.addresses import WebhookTarget, is_reachable

LIMIT_S = 10.0
ANSWER_BYTES = 64 * 1024  # of status and headers; a body isn't read
SECRET_PREFIX = "whsec_"
SECRET_BYTES = 24  # as Standard Webhooks asks

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# Nothing ends a lookup that hangs: in the loop's own threads it would hold up all that the gateway does there.
_LOOKUPS = ThreadPoolExecutor(16, thread_name_prefix="lookup")


class NotSent(Exception):
    """The webhook didn't arrive; the text is for its log."""


def read_secret(settings: Settings) -> bytes:
    """Return the bytes of LATENTD_WEBHOOK_SECRET.

    Raises:
        ConfigurationError: it is missing where LATENTD_WEBHOOK_ALLOW has hosts, or is no such secret.
    """
    bound = f"{SECRET_PREFIX} and at least {SECRET_BYTES} bytes as base64"
    sent = "" if settings.webhook_secret is None else settings.webhook_secret.get_secret_value()
    try:
        secret = base64.b64decode(sent.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not sent.startswith(SECRET_PREFIX) or len(secret) < SECRET_BYTES:
        detail = f"LATENTD_WEBHOOK_ALLOW needs a LATENTD_WEBHOOK_SECRET that is {bound}"
        raise ConfigurationError(detail, field="LATENTD_WEBHOOK_SECRET", bound=bound)
    return secret


def signed_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Make the headers of Standard Webhooks: HMAC-SHA256 over id, timestamp and body."""
    text = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(secret, text, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


async def resolve(host: str, port: int) -> Sequence[str]:
    """Look up the host's addresses, as the system orders them."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


async def send(
    target: WebhookTarget,
    secret: bytes,
    message_id: str,
    body: bytes,
    allow: Sequence[str],
    resolving: Resolve = resolve,
) -> int:
    """POST the body within 10 s and return the status of the answer, which may be any.

    Raises:
        NotSent: no address, a private one, no connection, no TLS, or no answer.
    """
    headers = signed_headers(secret, message_id, int(CLOCK.unix()), body)
    try:
        async with asyncio.timeout(LIMIT_S):
            addresses = _checked(await resolving(target.host, target.port), target, allow)
            return await _post(target, addresses, headers, body)
    except TimeoutError as error:
        raise NotSent(f"no answer within {LIMIT_S:g} s") from error
    except (OSError, EOFError, ValueError) as error:  # ssl's errors are OSErrors, a name that isn't one a ValueError
        raise NotSent(f"{type(error).__name__}: {error}"[:200]) from error


def _checked(addresses: Sequence[str], target: WebhookTarget, allow: Sequence[str]) -> Sequence[str]:
    """Return the addresses, where there are some and every one of them may be connected to."""
    refused = [address for address in addresses if not is_reachable(address, target.port, allow)]
    if refused or not addresses:
        what = f"resolves to {refused[0]}, a private address" if refused else "has no address"
        raise NotSent(f"{target.host} {what}; LATENTD_WEBHOOK_ALLOW may name its network")
    return addresses


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _post(target: WebhookTarget, addresses: Sequence[str], headers: dict[str, str], body: bytes) -> int:
    reader, writer = await _connect(target, addresses)
    try:
        writer.write(_request(target, headers, body))
        await writer.drain()
        return await _status(reader)
    finally:
        writer.transport.abort()


async def _connect(target: WebhookTarget, addresses: Sequence[str]) -> Connection:
    """Connect to the first address that answers; one that doesn't takes no more than its share of the time."""
    *others, last = addresses
    for address in others:
        with suppress(OSError):
            async with asyncio.timeout(LIMIT_S / len(addresses)):
                return await _open(target, address)
    return await _open(target, last)


async def _open(target: WebhookTarget, address: str) -> Connection:
    context = _tls() if target.tls else None
    name = target.host if target.tls else None
    return await asyncio.open_connection(address, target.port, ssl=context, server_hostname=name, limit=ANSWER_BYTES)


def _request(target: WebhookTarget, headers: dict[str, str], body: bytes) -> bytes:
    all_headers = {
        "Host": target.authority,
        "User-Agent": f"latentd/{__version__}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    lines = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


async def _status(reader: asyncio.StreamReader) -> int:
    """Read the status of the final answer; interim ones (1xx) are read over."""
    while True:
        head = await _head(reader)
        parts = head.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1][:3].isdigit():
            raise ValueError("the answer isn't HTTP")
        if not 100 <= (status := int(parts[1][:3])) < 200:
            return status


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("the answer's headers are too long") from error
