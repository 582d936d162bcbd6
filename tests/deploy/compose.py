"""docker-compose.yml's services as processes of this machine: their commands, environment and health checks.

Only hosts, ports and paths are replaced: names of services by 127.0.0.1, ports by free ones, volumes by folders.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.deploy.files import services
from tests.service import free_port

PORTS = ("6379", "8000", "9100", "9101")
HEALTHY_S = 90.0


class Place:
    """Where the services are on this machine; `models_dir` takes the place of the images' own weights."""

    def __init__(self, folder: Path, models_dir: Path) -> None:
        self.folder = folder
        self.ports = {port: str(free_port()) for port in PORTS}
        self._extra = {"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_MODEL": "tiny", "OMP_NUM_THREADS": "1"}

    def moved(self, service: str, text: str) -> str:
        """A word of a command or a value of the environment, with this machine's hosts, ports and paths.

        Variables of `.env` have their defaults.
        """
        text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
        for port, free in self.ports.items():
            text = free if text == port else text.replace(f":{port}", f":{free}")
        text = text.replace("//redis:", "//127.0.0.1:").replace("0.0.0.0", "127.0.0.1")
        return str(self._data(service)) if text == "/data" else text

    def _data(self, service: str) -> Path:
        """Gateway and worker share a volume; Redis has one of its own."""
        volume = services()[service]["volumes"][0].split(":")[0]
        folder = self.folder / str(volume)
        folder.mkdir(exist_ok=True)
        return folder

    def environment(self, service: str) -> dict[str, str]:
        """Of a container: nothing of ours but what finds programs."""
        given: Mapping[str, str] = services()[service].get("environment", {})
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": path, **self._extra, **{name: self.moved(service, value) for name, value in given.items()}}

    def command(self, service: str, words: list[str]) -> list[str]:
        moved = [self.moved(service, word) for word in words]
        if moved[0] in ("redis-server", "redis-cli"):  # its port isn't in the command: it is Redis's own
            moved[1:1] = ["--port" if moved[0] == "redis-server" else "-p", self.ports["6379"]]
        return moved


class Container:
    """One service as a process, as its image runs it: in an empty folder, with only its own environment."""

    def __init__(self, place: Place, service: str) -> None:
        self._place = place
        self._service = service
        self._about: dict[str, Any] = services()[service]
        self.log = place.folder / f"{service}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> str:
        """`docker compose run --rm`: another command with the service's environment; what it prints."""
        command = self._place.command(self._service, list(words))
        done = subprocess.run(command, **self._where(), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return bytes(done.stdout).decode()

    def _where(self) -> dict[str, Any]:
        return {"env": self._place.environment(self._service), "cwd": self._place.folder}

    def healthy(self) -> bool:
        """The health check's own verdict, once."""
        kind, *words = self._about["healthcheck"]["test"]
        assert kind == "CMD"
        command = self._place.command(self._service, words)
        return subprocess.run(command, **self._where(), capture_output=True, timeout=30, check=False).returncode == 0

    def __enter__(self) -> Container:
        command = self._place.command(self._service, self._about["command"])
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, **self._where(), stdout=log, stderr=log)
        until = time.monotonic() + HEALTHY_S
        while not self.healthy():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.2)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)
