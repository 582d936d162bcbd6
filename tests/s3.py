"""An S3 server of a test's own (moto), with one empty bucket."""

from __future__ import annotations

import logging
from types import TracebackType

import httpx2
from moto.server import ThreadedMotoServer

BUCKET = "pictures"


class S3Server:
    """Runs in a thread of the test; `env` are the settings and AWS variables of processes that use it."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)

    @property
    def url(self) -> str:
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "LATENTD_STORAGE_URL": f"s3://{BUCKET}/latentd",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> S3Server:
        self._server.start()
        httpx2.put(f"{self.url}/{BUCKET}", timeout=60).raise_for_status()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.stop()
