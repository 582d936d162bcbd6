"""`latentd up`: one supervisor that starts Redis, workers and the gateway, restarts what dies and stops all of it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from core.settings import Settings
from jobs.layout import check_layout
from latentd.embedded_server import find_server, server_command, wait_until_up

PR_SET_PDEATHSIG = 1
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 4.0)
STEADY_S = 30.0  # a child that lived this long starts again without backoff
POLL_S = 0.1
log = structlog.get_logger()


def die_with_parent() -> None:
    """Runs in the child: the kernel sends it SIGTERM if the supervisor dies, even by kill -9; Ctrl-C stays ours."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One supervised process and how often it died in a row."""

    name: str
    command: Sequence[str]
    env: dict[str, str]
    stop_s: float
    ready: Callable[[], None] = lambda: None
    more: Callable[[], Sequence[str]] = tuple
    """Arguments that are found anew at each start."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    start_at: float = field(default=0.0)

    def start(self) -> None:
        """Start, the first time until it is ready: later the others wait by themselves, for a full disk as well."""
        first, self.started = self.started == 0.0, time.monotonic()
        self.process = subprocess.Popen([*self.command, *self.more()], env=self.env, preexec_fn=die_with_parent)
        if first:
            self.ready()

    def tend(self, now: float) -> None:
        """Note a death, and start again when its backoff is over."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.process = None
            self.deaths = 0 if now - self.started > STEADY_S else self.deaths + 1
            wait = BACKOFF_S[min(self.deaths, len(BACKOFF_S)) - 1] if self.deaths else 0.0
            self.start_at = now + wait
            log.warning("child died, restarting", child=self.name, exit_code=code, wait_s=wait)
        if self.process is None and now >= self.start_at:
            self.start()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL once `stop_s` has passed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.stop_s)
        except subprocess.TimeoutExpired:
            log.warning("child did not stop, killing it", child=self.name, after_s=self.stop_s)
            self.process.kill()
            self.process.wait()


def devices() -> list[str]:
    """One entry per GPU that NVML sees, else the CPU."""
    try:
        import pynvml
    except ImportError:
        return ["cpu"]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ["cpu"]  # no driver on this machine
    return [f"cuda:{index}" for index in range(pynvml.nvmlDeviceGetCount())] or ["cpu"]


def metrics_option(settings: Settings, index: int) -> list[str]:
    """The metrics port of worker `index`, or any free one: a page of numbers is no reason not to draw."""
    wanted = settings.worker_metrics_port + index
    family = socket.AF_INET6 if ":" in settings.metrics_host else socket.AF_INET
    try:
        socket.create_server((settings.metrics_host, wanted), family=family).close()
    except (OSError, OverflowError) as error:
        log.warning(
            "metrics port is taken: the worker gets another, which its line `ready` names",
            port=wanted,
            error=str(error),
        )
        wanted = 0
    return ["--metrics-port", str(wanted)]


def children(settings: Settings, insecure: bool) -> list[Child]:
    """Redis (unless REDIS_URL names one), a worker per device, the gateway: in order of start."""
    env = os.environ | {
        "REDIS_URL": settings.redis,
        "LATENTD_HOST": settings.host,
        "LATENTD_PORT": str(settings.port),
        "LATENTD_DATA_DIR": str(settings.data_dir.resolve()),
    }
    env.pop("LATENTD_METRICS_PORT", None)  # one port can't serve several children
    latentd = [sys.executable, "-m", "latentd"]
    found: list[Child] = []
    if settings.redis_url is None:
        server = find_server(settings.redis_server)
        command = server_command(server, settings.data_dir.resolve() / "redis", settings.redis_socket)
        found.append(Child("redis", command, env, 10, lambda: meet_embedded(settings)))
    for index, device in enumerate(devices()):
        worker = [*latentd, "worker", "--device", device]
        port = partial(metrics_option, settings, index)
        found.append(Child(f"worker-{device}", worker, env, settings.drain_s + 10, more=port))
    found.append(Child("gateway", [*latentd, "gateway", *(["--insecure"] if insecure else [])], env, 10))
    return found


def meet_embedded(settings: Settings) -> None:
    """Wait for the embedded Redis; raises ConfigurationError if it doesn't come, or holds jobs of another release."""
    wait_until_up(settings.redis, 60)
    with Redis.from_url(settings.redis) as redis:
        check_layout(redis)


def meet_given(settings: Settings) -> None:
    """Raises ConfigurationError if REDIS_URL's holds jobs of another release; one that is away is waited for."""
    with suppress(RedisError), Redis.from_url(settings.redis, retry=Retry(NoBackoff(), 0)) as redis:
        check_layout(redis)


def run(settings: Settings, insecure: bool) -> None:
    """Supervise until SIGINT or SIGTERM; returns when every child has ended.

    Raises:
        ConfigurationError: the embedded Redis doesn't start, or Redis holds jobs of another release.
    """
    if settings.redis_url is not None:
        meet_given(settings)
    stopping: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    all_children = children(settings, insecure)
    log.info("starting", page=f"http://{settings.host}:{settings.port}", data=str(settings.data_dir.resolve()))
    try:
        while not stopping:
            for child in all_children:
                child.tend(time.monotonic())
            time.sleep(POLL_S)
    finally:
        log.info("stopping")
        for child in reversed(all_children):
            child.stop()
