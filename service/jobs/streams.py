"""Event streams: how many one gateway has open, as each takes two descriptors, and what stands on one line."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from core.errors import TooManyStreams

MOST = 2000
SHARE = 4  # of the descriptors: a stream takes a connection of its client and one to Redis, and others are needed too
RETRY_AFTER_S = 10
# Where clients that read by lines of text (httpx, str.splitlines) would end one; JSON has them in texts alone.
_LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}


def default_limit() -> int:
    """A fourth of the descriptors that this process may open, at most MOST."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if descriptors == resource.RLIM_INFINITY else max(1, min(MOST, descriptors // SHARE))


def on_one_line(data: str) -> str:
    """Write JSON so that it stands on one line whatever a client takes for a line's end."""
    return data if data.isascii() else data.translate(_LINE_ENDS)


class OpenStreams:
    """Counts the streams of one gateway."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit or default_limit()
        self.count = 0

    def check(self) -> None:
        """Check that one more may be opened.

        Raises:
            TooManyStreams: as many as may are open.
        """
        if self.count >= self.limit:
            detail = f"{self.count} event streams are open; at most LATENTD_EVENT_STREAMS={self.limit}"
            raise TooManyStreams(detail, retry_after=RETRY_AFTER_S, value=self.count)

    def open(self) -> None:
        """Count one more; whoever calls this closes it. Raises as `check`."""
        self.check()
        self.count += 1

    def close(self) -> None:
        """Count one less."""
        self.count -= 1


class EventStream(StreamingResponse):
    """Server-sent events, one of the open streams until its client has them or leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], streams: OpenStreams, headers: Mapping[str, str]) -> None:
        super().__init__(events, headers=headers)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events.

        Raises:
            TooManyStreams: before anything is sent.
        """
        self._streams.open()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.close()
