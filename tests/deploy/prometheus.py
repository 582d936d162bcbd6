"""A real Prometheus of a test's own, and what it answers."""

from __future__ import annotations

import math
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
import yaml

from tests.service import free_port

START_S = 30.0


class Prometheus:
    """Runs Debian's prometheus with a configuration on a free port, its data in a short-lived folder."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="latentd-prometheus-")
        self._file = Path(self._folder.name) / "prometheus.yml"
        self._file.write_text(yaml.safe_dump(config), "utf-8")
        self._port = free_port()
        self._client = httpx2.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=10, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer of the HTTP API."""
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Series of an instant vector now: labels and value."""
        result = self.ask("query", query=expr)["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]

    def range(
        self, expr: str, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Series of a range: labels, and (Unix time, value) pairs."""
        result = self.ask("query_range", query=expr, start=start, end=end, step=step)["result"]
        return [(each["metric"], [(float(at), float(value)) for at, value in each["values"]]) for each in result]

    def value(self, expr: str) -> float:
        """The only series' value; 0 where there is none."""
        found = self.query(expr)
        assert len(found) <= 1, found
        return found[0][1] if found else 0.0

    def life(self) -> str:
        """A range that holds all that it scraped, however long that took."""
        return f"{math.ceil(time.monotonic() - self._began)}s"

    def targets(self) -> dict[str, list[str]]:
        """Health of the targets of each job."""
        found: dict[str, list[str]] = {}
        for target in self.ask("targets", state="active")["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found

    def wait_until_up(self, *jobs: str, seconds: float = 30.0) -> None:
        """Wait until each job has targets and all of them answer."""
        until = time.monotonic() + seconds
        while any(set(self.targets().get(job, ["none"])) != {"up"} for job in jobs):
            assert time.monotonic() < until, self.targets()
            time.sleep(0.2)

    def __enter__(self) -> Prometheus:
        place = [f"--storage.tsdb.path={self._folder.name}/data", f"--web.listen-address=127.0.0.1:{self._port}"]
        command = ["prometheus", f"--config.file={self._file}", *place, "--log.level=error"]
        self._process, self._began = subprocess.Popen(command), time.monotonic()
        until = time.monotonic() + START_S
        while not self._ready():
            assert self._process.poll() is None, "prometheus ended"
            assert time.monotonic() < until, "prometheus didn't start"
            time.sleep(0.1)
        return self

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        self._folder.cleanup()
