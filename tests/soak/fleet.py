"""The processes of a soak: a Redis with an append-only file, one gateway, and workers that start again when killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2

from core.settings import Settings
from tests.integration.processes import WorkerProcess
from tests.redis_server import RedisServer
from tests.service import free_port

POLL_S = 0.05


@dataclass(slots=True)
class Member:
    """One place in the fleet and the worker in it now."""

    process: WorkerProcess
    started: float
    name: str = ""  # once it is ready


class Fleet:
    """Starts everything; `logs` are those of every worker that ever was."""

    def __init__(self, settings: Settings, server: RedisServer, folder: Path, workers: int, forked: bool) -> None:
        self._settings = settings
        self._forked = forked
        self._folder = folder
        self.server = server
        self.starts: list[float] = []  # seconds from a worker's start to its readiness
        self.logs: list[Path] = []
        self.members = [self._start() for _ in range(workers)]
        self.port = free_port()
        self._gateway = self._start_gateway()
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def _start(self) -> Member:
        process = WorkerProcess(self._settings, self._folder, forked=self._forked)
        self.logs.append(process.log)
        return Member(process, time.monotonic())

    def _start_gateway(self) -> subprocess.Popen[bytes]:
        used = self._settings
        env = os.environ | {
            "REDIS_URL": used.redis,
            "LATENTD_MODELS_DIR": str(used.models_dir),
            "LATENTD_DATA_DIR": str(used.data_dir),
            "LATENTD_PORT": str(self.port),
            "LATENTD_MODEL": "tiny",
        }
        with (self._folder / "gateway.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", "latentd", "gateway"], env=env, stderr=log, stdout=log)

    def wait_until_served(self) -> None:
        """Wait for every worker and the gateway."""
        ends = time.monotonic() + 120
        while not (all(member.name for member in self.tend()) and self._answers()):
            assert time.monotonic() < ends, (self._folder / "gateway.log").read_text()
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def tend(self) -> list[Member]:
        """Note which workers became ready; all of them. None may die by itself."""
        for member in self.members:
            if not member.name and (ready := ready_line(member.process.log)) is not None:
                member.name = ready["worker"]
                self.starts.append(time.monotonic() - member.started)
            code = member.process.process.poll()
            assert code is None, f"a worker exited by itself with {code}: {member.process.log.read_text()[-2000:]}"
        return self.members

    def kill(self, member: Member) -> None:
        """kill -9, and a new worker in its place at once."""
        member.process.kill()
        self.members[self.members.index(member)] = self._start()

    def submit(self, key: str, fields: dict[str, Any], ends: float) -> str:
        """POST a job as a client does that tries again with its Idempotency-Key; the job's id."""
        while True:
            try:
                answer = self.client.post("/v1/txt2img", json=fields, headers={"Idempotency-Key": key})
                if answer.status_code == 202:
                    return str(answer.json()["id"])
                assert answer.status_code == 503, answer.text
            except httpx2.TransportError:
                pass  # the gateway waits for Redis, or Redis for its disk: as above
            assert time.monotonic() < ends, "no job could be made in time"
            time.sleep(0.2)

    def stop(self) -> None:
        """End everything but Redis."""
        for member in self.members:
            member.process.kill()
        self._gateway.kill()
        self._gateway.wait()
        self.client.close()


def ready_line(log: Path) -> dict[str, Any] | None:
    """What a worker said when it was ready."""
    return next((line for line in read_log(log) if line.get("event") == "ready"), None)


def read_log(log: Path) -> list[dict[str, Any]]:
    """The JSON lines of a worker's log; the last one may be cut off by a kill."""
    lines = []
    for text in log.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def moment(line: dict[str, Any]) -> float:
    """Unix time of a log line."""
    return datetime.fromisoformat(line["timestamp"]).astimezone(UTC).timestamp()
