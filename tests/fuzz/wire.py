"""Bytes to a gateway and its answer, over a connection of their own."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

ANSWER_S = 30.0  # where one must come
HALF_S = 0.5  # for a request that may still be waited for: then its client leaves
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_TYPE = re.compile(rb"\r\ncontent-type: ([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer on a connection; status 0: none came."""

    status: int
    media: str
    body: bytes
    seconds: float


async def ask(port: int, data: bytes, *, whole: bool, head: bool) -> Answer:
    """Send one request and read what is answered; without a length, or to HEAD, what comes with its head."""
    began = time.monotonic()
    read = bytearray()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(ANSWER_S if whole else HALF_S):
            writer.write(data)
            await writer.drain()
            while not _complete(read, head) and (more := await reader.read(65536)):
                read += more
    except (TimeoutError, ConnectionError):
        pass  # what had come by then is the answer
    finally:
        writer.transport.abort()
    return _answer(bytes(read), time.monotonic() - began)


def _complete(read: bytes | bytearray, to_head: bool) -> bool:
    head, end, body = bytes(read).partition(b"\r\n\r\n")
    if not end or head.startswith(b"HTTP/1.1 100"):
        return False
    length = _LENGTH.search(head)
    return to_head or length is None or len(body) >= int(length[1])


def _answer(read: bytes, seconds: float) -> Answer:
    read = read.removeprefix(b"HTTP/1.1 100 \r\n\r\n")
    head, _, body = read.partition(b"\r\n\r\n")
    status, media = _STATUS.match(read), _TYPE.search(head)
    return Answer(int(status[1]) if status else 0, media[1].decode("latin-1") if media else "", body, seconds)
