"""One webhook's way to its receiver: the lookup of its name, and which of the addresses it goes to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from service.webhooks import send as sending
from service.webhooks.addresses import check_url
from service.webhooks.send import NotSent, resolve, send

ALLOW = ("http://hooks.test:*", "127.0.0.0/8:*")


def test_lookups_that_hang_hold_up_no_thread_of_the_gateway_s(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        released.wait(60)
        return []

    async def main() -> None:
        lookups = [asyncio.ensure_future(resolve("hooks.test", 80)) for _ in range(40)]  # more than the loop's threads
        await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            assert await asyncio.to_thread(lambda: "done") == "done"
        released.set()
        assert await asyncio.gather(*lookups) == [[]] * 40

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        asyncio.run(main())
    finally:
        released.set()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    writer.close()


def _as(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolving(_host: str, _port: int) -> Sequence[str]:
        return addresses

    return resolving


def test_a_receiver_whose_first_address_is_dead_gets_its_webhook() -> None:
    async def main() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = check_url(f"http://hooks.test:{port}/", ALLOW)
        assert await send(target, b"x" * 32, "m", b"{}", ALLOW, _as("127.0.0.2", "127.0.0.1")) == 204
        with pytest.raises(NotSent, match="Connect"):
            await send(target, b"x" * 32, "m", b"{}", ALLOW, _as("127.0.0.2", "127.0.0.3"))
        server.close()

    asyncio.run(main())


def test_an_address_that_never_answers_leaves_the_next_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue of connections is full."""

    async def main(full: socket.socket) -> None:
        port = full.getsockname()[1]
        server = await asyncio.start_server(_answer, "127.0.0.1", port)
        target = check_url(f"http://hooks.test:{port}/", ALLOW)
        assert await send(target, b"x" * 32, "m", b"{}", ALLOW, _as("127.0.0.2", "127.0.0.1")) == 204
        server.close()

    monkeypatch.setattr(sending, "LIMIT_S", 4.0)
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        asyncio.run(main(full))
        for each in waiting:
            each.close()
