"""Servers of the bench as processes on loopback: `latentd up`, and diffusers behind LitServe and plain FastAPI."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import latentd
from core.errors import LatentdError
from latentd.bench.peers.options import Options
from latentd.bench.serve.client import is_up, loaded
from latentd.child import die_with_parent

START_S, STOP_S = 300.0, 30.0
ROOT = Path(latentd.__file__).parent.parent


class ServerFailed(LatentdError):
    """A server of the bench ended or didn't become ready."""

    slug, title = "server-failed", "Server failed"


@dataclass(slots=True)
class Server(AbstractContextManager["Server"]):
    """A process that is started, waited for and stopped; what it prints goes to `log`."""

    name: str
    command: Sequence[str]
    port: int
    log: Path
    ready: Callable[[int], bool]
    env: Mapping[str, str]
    cwd: Path | None = None
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                self.command, stdout=out, stderr=out, env=self.env, cwd=self.cwd, preexec_fn=die_with_parent
            )
        ends = time.monotonic() + START_S
        while not self.ready(self.port):
            if self._process.poll() is not None or time.monotonic() > ends:
                self.__exit__(None, None, None)
                last = self.log.read_text("utf-8", "replace").strip().splitlines()[-5:]
                raise ServerFailed(f"{self.name} doesn't serve: {' / '.join(last)}")
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):  # LitServe leaves processes behind; the group is the server's own
            os.killpg(self._process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ours(models_dir: Path, folder: Path, device: str, dtype: str, threads: int, max_rows: int) -> Server:
    """`latentd up` with data of its own in `folder`, whatever service the environment or a `.env` here names."""
    port, folder = free_port(), folder.resolve()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LATENTD_", "REDIS_URL"))}
    settings = {
        "LATENTD_PORT": str(port),
        "LATENTD_DATA_DIR": str(folder / "data"),
        "LATENTD_MODELS_DIR": str(models_dir.resolve()),
        "LATENTD_DTYPE": dtype,
        "LATENTD_THREADS": str(threads),
        "LATENTD_MAX_ROWS": str(max_rows),
        "LATENTD_MAX_WAIT_S": "3600",
        "LATENTD_WORKER_METRICS_PORT": str(free_port()),
        "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
    }
    command = [sys.executable, "-m", "latentd", "up"]
    return Server("latentd", command, port, folder / "latentd.log", loaded, inherited | settings, cwd=folder)


def peer(name: str, module: str, python: Path, options: Options, folder: Path) -> Server:
    """`latentd.bench.peers.<module>` in its environment."""
    command = [str(python), "-m", f"latentd.bench.peers.{module}", *options.arguments()]
    # Nothing of ours is installed there; threads that spin would take the cores of the others.
    env = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(options.threads)}
    return Server(name, command, options.port, folder / f"{module}.log", is_up, os.environ | env)
