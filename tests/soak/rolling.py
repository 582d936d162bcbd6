"""A rolling restart: two gateways behind nginx and two workers, each restarted in turn while jobs come in.

`python -m tests.soak.rolling [--log FILE]`. Clients never try again: what they meet is counted. They send an
Idempotency-Key, so that the proxy may pass a POST on to the other gateway.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2

from core.settings import Settings
from latentd.child import die_with_parent
from tests.integration.processes import WorkerProcess
from tests.nginx import Nginx, balanced
from tests.redis_server import RedisServer
from tests.service import free_port
from tests.tiny import write_tiny_inpaint
from tests.waits import wait_for

LOAD = 0.7
CLIENTS = 24
END_S = 120.0
STEPS = 40
KNOCK_S = 0.02  # between two connections that ask for nothing but an answer


@dataclass(frozen=True, slots=True)
class Plan:
    """At least `jobs`, and until all is restarted; capacity is measured with `measured` others, before that."""

    jobs: int
    measured: int
    workers: int  # of the two, those that are restarted
    forked: bool = False  # whether workers start behind their imports


FULL = Plan(jobs=300, measured=60, workers=2)
SHORT = Plan(jobs=30, measured=16, workers=1, forked=True)


class GatewayProcess:
    """`latentd gateway` on a port of its own."""

    def __init__(self, settings: Settings, port: int, log: Path) -> None:
        env = os.environ | {
            "REDIS_URL": settings.redis,
            "LATENTD_MODELS_DIR": str(settings.models_dir),
            "LATENTD_DATA_DIR": str(settings.data_dir),
            "LATENTD_MODEL": "tiny",
            "LATENTD_PORT": str(port),
        }
        self.log = log
        with log.open("wb") as file:
            command = [sys.executable, "-m", "latentd", "gateway"]
            self.process = subprocess.Popen(command, env=env, stderr=file, stdout=file, preexec_fn=die_with_parent)

    def ready(self) -> None:
        """Wait until it listens."""
        wait_for(lambda: '"ready"' in self.log.read_text() or self.process.poll() is not None, 180, "start")
        assert self.process.poll() is None, self.log.read_text()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(60)


class Rolling:
    """Everything of one run."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._folder = folder
        self._server = RedisServer(aof=True)
        write_tiny_inpaint(folder / "models" / "tiny")
        self._ports = [free_port(), free_port()]
        self._proxy_port = free_port()
        self.url = f"http://127.0.0.1:{self._proxy_port}"
        self.ends: Counter[str] = Counter()
        self.knocks: Counter[str] = Counter()
        self.reconnections = 0
        self._restarted = threading.Event()
        self._fed = 0
        self._lock = threading.Lock()

    def run(self) -> list[str]:
        """What did not hold."""
        with self._server:
            data = {"data_dir": self._folder / "data", "models_dir": self._folder / "models"}
            settings = Settings.model_validate({"redis_url": self._server.url, "model": "tiny", **data})
            gateways = [self._gateway(settings, port) for port in self._ports]
            workers = [self._worker(settings) for _ in range(2)]
            proxy = Nginx(self._folder, self._proxy_port, balanced(self._proxy_port, self._ports))
            try:
                proxy.ready()
                self._roll(settings, gateways, workers)
            finally:
                processes = [proxy.process, *(each.process for each in gateways), *(each.process for each in workers)]
                for process in processes:
                    process.kill()
                    process.wait()
        return self._complaints()

    def _gateway(self, settings: Settings, port: int) -> GatewayProcess:
        return GatewayProcess(settings, port, self._folder / f"gateway-{time.monotonic_ns()}.log")

    def _worker(self, settings: Settings) -> WorkerProcess:
        return WorkerProcess(settings, self._folder, forked=self._plan.forked)

    def _roll(self, settings: Settings, gateways: list[GatewayProcess], workers: list[WorkerProcess]) -> None:
        for place in range(2):
            gateways[place].ready()
            workers[place].ready()
        with ThreadPoolExecutor(CLIENTS) as clients:
            began = time.monotonic()
            list(clients.map(self._one, range(self._plan.measured)))
            rate = LOAD * self._plan.measured / (time.monotonic() - began)
            self._tell(f"capacity {rate / LOAD:.1f} jobs/s; load {rate:.1f} jobs/s")
            beside = [threading.Thread(target=self._feed, args=(clients, rate)), threading.Thread(target=self._knock)]
            for thread in beside:
                thread.start()
            try:
                self._restart(settings, gateways, workers)
            finally:
                self._restarted.set()
                for thread in beside:
                    thread.join()

    def _feed(self, clients: ThreadPoolExecutor, rate: float) -> None:
        began, index = time.monotonic(), 0
        while index < self._plan.jobs or not self._restarted.is_set():
            time.sleep(max(0.0, began + index / rate - time.monotonic()))
            clients.submit(self._one, index + self._plan.measured)
            index += 1
        self._fed = index

    def _knock(self) -> None:
        """New connections all the time: one that is refused or reset in the moment of a restart shows here."""
        while not self._restarted.wait(KNOCK_S):
            try:
                end = str(httpx2.get(f"{self.url}/livez", trust_env=False, timeout=60).status_code)
            except httpx2.TransportError as error:
                end = f"{type(error).__name__}: {error}"
            self.knocks[end] += 1

    def _restart(self, settings: Settings, gateways: list[GatewayProcess], workers: list[WorkerProcess]) -> None:
        for place in range(2):
            began = time.monotonic()
            gateways[place].stop()
            gateways[place] = self._gateway(settings, self._ports[place])
            gateways[place].ready()
            self._tell(
                f"gateway {place} restarted in {time.monotonic() - began:.1f} s, {sum(self.ends.values())} ended"
            )
        for place in range(self._plan.workers):
            began = time.monotonic()
            workers[place].stop(60)
            workers[place] = self._worker(settings)
            workers[place].ready()
            self._tell(f"worker {place} restarted in {time.monotonic() - began:.1f} s, {sum(self.ends.values())} ended")

    def _one(self, index: int) -> None:
        """One job of one client, from its POST to its image; how it ended is counted."""
        try:
            with httpx2.Client(base_url=self.url, timeout=END_S, trust_env=False) as client:
                end = self._job(client, index)
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        with self._lock:
            self.ends[end] += 1

    def _job(self, client: httpx2.Client, index: int) -> str:
        body = {"prompt": "red heart", "width": 64, "height": 64, "steps": STEPS, "seed": index, "guidance_scale": 1}
        answer = client.post("/v1/txt2img", json=body, headers={"Idempotency-Key": f"rolling-{index}"})
        if answer.status_code != 202:
            return f"POST answered {answer.status_code}"
        job_id = str(answer.json()["id"])
        self._follow(client, job_id)
        job = client.get(f"/v1/jobs/{job_id}")
        if job.status_code != 200 or job.json()["status"] != "succeeded":
            return f"the job is {job.status_code} {job.text[:200]}"
        image = client.get(job.json()["images"][0]["url"])
        return "succeeded" if image.status_code == 200 else f"image answered {image.status_code}"

    def _follow(self, client: httpx2.Client, job_id: str) -> None:
        """Read events until the stream is over; a gateway that stops ends it early, and another goes on with it."""
        last, over = "", False
        while not over:
            headers = {"Last-Event-ID": last} if last else {}
            with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
                for line in stream.iter_lines():
                    last = line.removeprefix("id: ") if line.startswith("id: ") else last
                    over = over or line in ("event: succeeded", "event: failed", "event: canceled")
                over = over or stream.status_code != 200
            if not over:
                with self._lock:
                    self.reconnections += 1

    def _complaints(self) -> list[str]:
        self._tell(f"jobs: {dict(self.ends)}; {self.reconnections} streams went on at the other gateway")
        self._tell(f"other connections: {dict(self.knocks)}")
        bad = [f"{count} × {end}" for end, count in self.ends.items() if end != "succeeded"]
        bad += [f"{count} × {end}" for end, count in self.knocks.items() if end != "200"]
        missing = self._fed + self._plan.measured - sum(self.ends.values())
        return [*bad, *([f"{missing} jobs never ended"] if missing else [])]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.rolling", description=__doc__)
    parser.add_argument("--log", type=Path, help="where the log is written")
    options = parser.parse_args()
    lines, began = ["# Rolling restart: the log of `python -m tests.soak.rolling`", ""], time.monotonic()

    def tell(line: str) -> None:
        lines.append(f"    {time.monotonic() - began:6.1f} s  {line}")
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="latentd-rolling-") as folder:
        complaints = Rolling(FULL, Path(folder), tell).run()
    for complaint in complaints or ["everything held: no failed job, no 5xx, no refused connection"]:
        tell(complaint)
    if options.log is not None:
        options.log.write_text("\n".join(lines) + "\n", "utf-8")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
