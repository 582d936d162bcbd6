"""HTTP/1.1 with time limits that uvicorn lacks: slow heads and clients that don't read lose their connection."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from core.errors import MalformedRequest
from service.http.problems import MEDIA_TYPE

HEAD_S = 10.0  # from a connection's start, or a request's first byte, until its head is complete
UNREAD_S = 60.0  # how often it is looked whether a client reads the answer that waits for it
MIN_RATE = 16 * 1024  # bytes a second, in both directions: 32 MiB may take half an hour
DRAIN_S = 30.0  # for the rest of a body whose answer came before it, as nginx gives it
HEAD_BYTES = 32 * 1024
WRITE_BYTES = 64 * 1024  # of an answer, gathered for one write


class OneWrite(asyncio.Transport):
    """A transport that sends at once what is written at once: an answer's head and body, which uvicorn writes apart."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Hold the data until the loop's next turn, or until it is much."""
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(bytes(data))
        self._size += len(data)
        if self._size >= WRITE_BYTES:  # so that a client that doesn't read is noticed
            self._send()

    def _send(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held, self._size = [], 0
            self._transport.write(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._held, self._size = [], 0
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


class PatientProtocol(H11Protocol):
    """uvicorn's protocol with time limits; a body's pace is the application's to judge, until it has answered."""

    head_s = HEAD_S
    unread_s = UNREAD_S
    drain_s = DRAIN_S
    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport, self.loop))
        self._head_timer = self.loop.call_later(self.head_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_s, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what isn't HTTP as a problem; where an answer has begun, none can be told apart from it any more."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        detail = f"{msg} The request isn't HTTP/1.1 as RFC 9112 has it."
        body = MalformedRequest(detail).problem().model_dump_json(exclude_none=True).encode()
        head = h11.Response(status_code=400, reason=b"Bad Request", headers=_malformed_headers(len(body)))
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(self.drain_s, self._end_draining, self.cycle)

    def _end_draining(self, answered: RequestResponseCycle) -> None:
        """Close the connection if the body of what was answered still comes: nobody reads it, nor judges its pace."""
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()

    def _look_later(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self.unread_s, self._look, unread)

    def _look(self, unread: int) -> None:
        """Close the connection of a client that has read less than MIN_RATE of the answer since the last look."""
        if unread - self.transport.get_write_buffer_size() < MIN_RATE * self.unread_s:
            self.transport.abort()
        else:
            self._look_later()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def _malformed_headers(length: int) -> list[tuple[str, str]]:
    return [
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", str(length)),
        ("Connection", "close"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
