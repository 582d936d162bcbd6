"""A whole latentd of a test's own: `latentd up` as a user starts it, in a folder and on a port of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import httpx2

from latentd.child import die_with_parent
from tests.starved import allowance

START_S = 180.0
PORTS = range(15_000, 32_000)  # below those that the kernel gives to connections
_given: set[int] = set()


def free_port() -> int:
    """A port that no connection can come to hold while a worker restarts, and that no other test was given.

    Who asked first may not listen yet: none is given twice, and test processes side by side have shares of their own.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = PORTS[number % count :: count]
    while True:
        port = random.choice(share)
        with socket.socket() as probe:
            if port not in _given and probe.connect_ex(("127.0.0.1", port)):
                _given.add(port)
                return port


class Service:
    """Starts, stops and asks one `latentd up`; `env` holds settings beside those for its folder and ports."""

    def __init__(self, env: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="latentd-up-"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.worker_metrics_port = free_port()
        self.log_path = self.folder / "log"
        given = {"LATENTD_PORT": str(self.port), "LATENTD_DATA_DIR": str(self.folder / "data")}
        given["LATENTD_WORKER_METRICS_PORT"] = str(self.worker_metrics_port)
        self.env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | given | (env or {})
        self.client = httpx2.Client(base_url=self.url, timeout=120)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> float:
        """Start, wait until /readyz and a live worker; the seconds that it took, less those that it was starved of."""
        began = time.monotonic()
        self._log = self.log_path.open("ab")
        command = [sys.executable, "-m", "latentd", "up"]
        self._process = subprocess.Popen(command, env=self.env, stderr=self._log, preexec_fn=die_with_parent)
        allowed = allowance(self.pid)
        while not self._serves():
            allowed()
            assert self._process.poll() is None, self.log_path.read_text()
            assert time.monotonic() - began < START_S, self.log_path.read_text()
            time.sleep(0.05)
        return time.monotonic() - began - allowed()

    def _serves(self) -> bool:
        try:
            if self.client.get("/readyz").status_code != 200:
                return False
            items = self.client.get("/v1/models").json()["items"]
            return bool(items) and all(model["loaded"] for model in items)
        except httpx2.TransportError:
            return False

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        """POST JSON, wait for the end and return the job."""
        answer = self.client.post(path, json=fields, headers={"Prefer": "wait=100"})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def image(self, job: dict[str, Any], index: int = 0) -> bytes:
        answer = self.client.get(job["images"][index]["url"])
        assert answer.status_code == 200, answer.text
        return answer.content

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    def processes(self) -> list[int]:
        """Ids of the supervisor's children."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(child) for child in text.split()]

    def named(self, command: str) -> list[int]:
        """Ids of the children that run `latentd <command>`."""
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in self.processes()}
        return [pid for pid, line in lines.items() if command.encode() in line]

    def wait_until_served(self, gone: int) -> None:
        """Wait for another worker than `gone`, which was killed, to be ready for jobs."""
        until = time.monotonic() + START_S
        while gone in self.named("worker") or not self.named("worker") or not self._metrics_up():
            assert time.monotonic() < until, self.log_path.read_text()
            time.sleep(0.05)

    def _metrics_up(self) -> bool:
        try:
            return self.client.get(f"http://127.0.0.1:{self.worker_metrics_port}/metrics").status_code == 200
        except httpx2.TransportError:
            return False

    def stop(self) -> None:
        """Ctrl-C, and wait."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        self._process.wait(120)
        self._process = None
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Service:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        self.client.close()
