"""Bounds on what a client sends, before anything reads it: the size of head and body, and how slow a body may be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from core.errors import (
    BodiesBusy,
    BodyTooLarge,
    HeadTooLarge,
    LatentdError,
    MalformedRequest,
    SlowClient,
    UnsupportedMedia,
)
from service.http.problems import cut
from service.http.protocol import HEAD_BYTES, MIN_RATE

# A client that already sends a body too large often reads no answer before it is done: this much is read and dropped.
DRAIN_BYTES = 256 * 2**20
DRAIN_S = 5.0
SLACK_S = 20.0
HELD_BYTES = 512 * 2**20  # of all bodies of a gateway; pictures in JSON take as much again while they are read
HELD_BODIES = 4  # of the largest size, at least
SMALL_BYTES = 64 * 1024  # of a body that is always read: prompts
RETRY_AFTER_S = 10
LET_GO = "latentd.let_go_of_body"  # in a request's scope: what it calls once it holds nothing of its body any more
HOLD = "latentd.hold"  # in a request's scope: what it calls with the bytes that it makes of its body


def check_head(scope: Scope) -> None:
    """Check the size of address and headers; the parser bounds only slow ones.

    Raises:
        HeadTooLarge: they have more than HEAD_BYTES.
    """
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if size > HEAD_BYTES:
        detail = f"the address and headers have {size} bytes; at most {HEAD_BYTES}"
        raise HeadTooLarge(detail, value=size, bound=HEAD_BYTES)


def check_encoding(headers: Headers) -> None:
    """Check that the body isn't compressed: what it would grow to is unknown before it is read.

    Raises:
        UnsupportedMedia: it is.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"Content-Encoding is {cut(encoding)!r}; bodies are read as they are"
        raise UnsupportedMedia(detail, field="Content-Encoding", value=cut(encoding), bound="identity, or no header")


class BodiesHeld:
    """Counts what a gateway holds of bodies: each is there until its request ends or lets go of it."""

    def __init__(self, limit: int, told: Callable[[int], None]) -> None:
        self.limit = limit  # of one body
        self._told = told
        self._bound = max(HELD_BYTES, HELD_BODIES * limit)
        self._held = 0

    def take(self, size: int, read: int) -> None:
        """Count `size` bytes more of a body, of which `read` are there with them.

        Raises:
            BodiesBusy: that is too much of all of them, and this is no small one.
        """
        if read > SMALL_BYTES and self._held + size > self._bound:
            detail = f"bodies that this gateway reads have {self._held} bytes; at most {self._bound}"
            raise BodiesBusy(detail, retry_after=RETRY_AFTER_S, field="body", value=read)
        self._held += size
        self._told(self._held)

    def give(self, size: int) -> None:
        """Count `size` bytes less."""
        self._held -= size
        self._told(self._held)


class BodyLimit:
    """Counts a body while it is read; over a bound the reader gets the error and the rest is dropped."""

    def __init__(self, receive: Receive, held: BodiesHeld, headers: Headers) -> None:
        self._receive = receive
        self._all = held
        self._limit = held.limit
        self._taken = 0
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
        """Check the length that the headers declare.

        Raises:
            MalformedRequest: it is no number.
            BodyTooLarge: it is over the limit.
        """
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
            size = len(message.get("body", b""))
            self._read += size
            try:
                self._check(size)
            except LatentdError:
                if not self._complete:
                    await self._drain()
                raise
        return message

    def _check(self, size: int) -> None:
        if self._read > self._limit:
            raise self._error(self._read)
        self._all.take(size, self._read)
        self._taken += size

    def hold(self, size: int) -> None:
        """Count what is made of the body, until the request ends, as its bytes. Raises as `BodiesHeld.take`."""
        self._all.take(size, self._read)
        self._taken += size

    def let_go(self) -> None:
        """Count the body no more: its request has ended, or holds nothing of it any more."""
        self._all.give(self._taken)
        self._taken = 0

    async def _timed(self) -> Message:
        """Wait for the next message; a body that isn't complete must come at MIN_RATE or faster after SLACK_S."""
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
