"""A TCP proxy before a test's server that can be slow, cut its connections, close them halfway or lose an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

CHUNK = 65_536


class Proxy:
    """Listens on loopback, forwards to a Unix socket or a TCP address; its faults can be changed while it runs."""

    def __init__(self, upstream: Path | tuple[str, int]) -> None:
        self.latency_s = 0.0  # of every answer
        self.refusing = False
        self.lose_answer_to = b""  # once: what is sent with this arrives, the answer doesn't, the connection breaks
        self.lose_every = False  # not once
        self.hold_answers_to = b""  # until it is empty again
        self.held = 0  # requests so far whose answers were
        self.upstream = upstream  # of the connections made from now on
        self.accepted = 0  # connections so far
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection, both ways."""
        for pair in self._take():
            for one in pair:
                _shut(one, socket.SHUT_RDWR)

    def close_halfway(self) -> None:
        """Clients get an end of file, while the server still hears them."""
        for client, _ in self._take():
            _shut(client, socket.SHUT_WR)

    def _take(self) -> list[tuple[socket.socket, socket.socket]]:
        pairs, self._pairs = self._pairs, []
        return pairs

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._server.accept()
                if self.refusing:
                    client.close()
                    continue
                server = _connect(self.upstream)
                self._pairs.append((client, server))
                self.accepted += 1
                threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        lost, held = threading.Event(), threading.Event()
        answers = threading.Thread(target=self._answer, args=(server, client, lost, held), daemon=True)
        answers.start()
        with client, server:
            with contextlib.suppress(OSError):
                while data := client.recv(CHUNK):
                    if self.lose_answer_to and self.lose_answer_to in data:
                        self.lose_answer_to = self.lose_answer_to if self.lose_every else b""
                        lost.set()
                    if self.hold_answers_to and self.hold_answers_to in data:
                        held.set()
                        self.held += 1
                    server.sendall(data)
            _shut(server, socket.SHUT_WR)
            answers.join()

    def _answer(
        self, server: socket.socket, client: socket.socket, lost: threading.Event, held: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                time.sleep(self.latency_s)
                while held.is_set() and self.hold_answers_to:
                    time.sleep(0.01)
                if lost.is_set():
                    break
                client.sendall(data)
        _shut(client, socket.SHUT_RDWR if lost.is_set() else socket.SHUT_WR)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _shut(self._server, socket.SHUT_RDWR)
        self._server.close()
        self.cut()


def _connect(address: Path | tuple[str, int]) -> socket.socket:
    if isinstance(address, Path):
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(address))
        return server
    return socket.create_connection(address)


def _shut(one: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(how)
