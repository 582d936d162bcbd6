"""A webhook receiver of a test's own: answers what it is told to and remembers what it got."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

SECRET = b"0123456789abcdef0123456789abcdef"
SECRET_TEXT = "whsec_" + base64.b64encode(SECRET).decode()


class Received:
    """One POST."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body

    @property
    def verified(self) -> bool:
        """As a receiver by the Standard Webhooks specification checks it."""
        text = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(SECRET, text, hashlib.sha256).digest()).decode()
        return expected in [each.removeprefix("v1,") for each in self.headers["webhook-signature"].split(" ")]


class Receiver:
    """Listens on loopback; the last of `statuses` is repeated."""

    def __init__(self, statuses: Sequence[int] = (204,), location: str | None = None) -> None:
        self.received: list[Received] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with receiver._arrived:
                    status = statuses[min(len(receiver.received), len(statuses) - 1)]
                    receiver.received.append(Received(self.path, headers, body))
                    receiver._arrived.notify_all()
                self.send_response(status)
                if location is not None:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/hook?x=1"

    def wait(self, count: int, seconds: float = 60) -> list[Received]:
        """Until `count` have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.received) >= count, seconds), len(self.received)
            return list(self.received)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
