"""`latentd up`: one supervisor that starts Redis, workers and the gateway, restarts what dies and stops all of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from core.errors import ConfigurationError
from core.listen import listen
from core.settings import Settings, check_models_dir
from jobs.layout import check_layout
from latentd.append_only import damage
from latentd.child import REFUSED_EXIT, Child
from latentd.data_lock import lock
from latentd.devices import devices
from latentd.embedded_server import find_server, server_command, wait_until_up
from latentd.redis_watch import SILENT_S, RedisWatch
from service.http.hosts import in_url
from workers.signals import SECOND_SIGNAL_S

POLL_S = 0.1
TELL_S = 5.0  # between two lines about what is waited for
log = structlog.get_logger()


def metrics_option(settings: Settings, index: int) -> list[str]:
    """The metrics port of worker `index`, or any free one: a page of numbers is no reason not to draw."""
    wanted = settings.worker_metrics_port + index
    try:
        listen(settings.metrics_host, wanted, "LATENTD_WORKER_METRICS_PORT").close()
    except (ConfigurationError, OverflowError) as error:
        log.warning(
            "metrics port is taken: the worker gets another, which its line `ready` names",
            port=wanted,
            error=str(error),
        )
        wanted = 0
    return ["--metrics-port", str(wanted)]


def children(settings: Settings, insecure: bool, keeps: Sequence[int] = ()) -> list[Child]:
    """Redis (unless REDIS_URL names one), a worker per device, the gateway: in order of start.

    Redis inherits the descriptors `keeps`.
    """
    env = os.environ | {
        "REDIS_URL": settings.redis,
        "LATENTD_HOST": settings.host,
        "LATENTD_PORT": str(settings.port),
        "LATENTD_DATA_DIR": str(settings.data_dir.resolve()),
    }
    latentd = [sys.executable, "-m", "latentd"]
    found: list[Child] = [] if settings.redis_url else [embedded(settings, env, keeps)]
    for index, device in enumerate(devices()):
        worker = [*latentd, "worker", "--device", device]
        port = partial(metrics_option, settings, index)
        found.append(Child(f"worker-{device}", worker, env, settings.drain_s + 10, more=port, refusal=REFUSED_EXIT))
    gateway = [*latentd, "gateway", *(["--insecure"] if insecure else [])]
    found.append(Child("gateway", gateway, env, 10, refusal=REFUSED_EXIT))
    return found


def embedded(settings: Settings, env: dict[str, str], keeps: Sequence[int]) -> Child:
    """The Redis of the data directory; its log stands beside its files."""
    server, data = find_server(settings.redis_server), settings.data_dir.resolve() / "redis"
    command = server_command(server, data, settings.redis_socket)
    log_file = data / "server.log"
    ended = partial(check_files, server, data)
    return Child("redis", command, env, 10, ended=ended, keeps=keeps, log_file=log_file)


def check_files(server: Path, data: Path, code: int) -> None:
    """Raises ConfigurationError if a Redis that ended by itself did so for damage that no start mends."""
    damaged = damage(server, data) if code > 0 else None
    if damaged is not None:
        raise ConfigurationError(damaged, field="LATENTD_DATA_DIR", value=str(data), bound="files that Redis reads")


def check_start(settings: Settings) -> None:
    """Check what can be known before anything starts, so that what can't work ends with one line.

    Raises:
        ConfigurationError: the models directory isn't there, the address can't be listened on, or REDIS_URL's refuses
            us or holds jobs of another release.
    """
    check_models_dir(settings)
    listen(settings.host, settings.port, "LATENTD_PORT").close()
    if settings.redis_url is not None:
        meet_given(settings)


def meet_embedded(settings: Settings, redis: Child, stopping: Sequence[float]) -> None:
    """Wait for the embedded Redis; raises ConfigurationError if it doesn't come, or holds jobs of another release."""

    def check() -> None:
        code = None if redis.process is None else redis.process.poll()
        if stopping:
            raise SystemExit(0)
        if code is not None:
            redis.ended(code)
            detail = f"the embedded Redis ended with status {code}; its log is {redis.log_file}"
            raise ConfigurationError(detail, field="LATENTD_DATA_DIR", value=str(settings.data_dir))

    wait_until_up(settings.redis, SILENT_S, check)
    with Redis.from_url(settings.redis) as connected:
        check_layout(connected)


def meet_given(settings: Settings) -> None:
    """Raises ConfigurationError if REDIS_URL's holds jobs of another release; one that is away is waited for."""
    with suppress(RedisError), Redis.from_url(settings.redis, retry=Retry(NoBackoff(), 0)) as redis:
        check_layout(redis)


def run(settings: Settings, insecure: bool) -> None:
    """Supervise until SIGINT, SIGTERM or the end of the terminal; returns when every child has ended.

    Raises:
        ConfigurationError: another service has the data directory, or something can't work.
        SystemExit: a child said at its first start why it can't work.
    """
    stopping: list[float] = []

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.append(time.monotonic())

    descriptor = lock(settings.data_dir.resolve())
    try:
        check_start(settings)
        hung_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]  # by nohup
        for number in (signal.SIGINT, signal.SIGTERM, *hung_up):
            signal.signal(number, on_signal)
        supervise(settings, children(settings, insecure, [descriptor]), stopping)
    finally:
        os.close(descriptor)


def supervise(settings: Settings, all_children: Sequence[Child], stopping: list[float]) -> None:
    """Start the children in their order, and those that die again, until there is a signal; then stop all of them."""
    watch = RedisWatch(settings.redis)
    redis = next((child for child in all_children if child.name == "redis"), None)
    if redis is not None:
        redis.ready = partial(meet_embedded, settings, redis, stopping)
        watch.start()
    log.info("starting", page=f"http://{in_url(settings.host)}:{settings.port}", data=str(settings.data_dir.resolve()))
    try:
        while not stopping:
            for child in all_children:
                child.tend(time.monotonic())
            if redis is not None:
                end_if_hung(redis, watch)
            time.sleep(POLL_S)
    finally:
        stop_all(all_children, stopping)


def end_if_hung(redis: Child, watch: RedisWatch, silent_s: float = SILENT_S) -> None:
    """Kill a Redis that runs and answers no more; it is started again as one that died."""
    if watch.silent_s > silent_s and redis.running and time.monotonic() - redis.started > silent_s:
        redis.kill("redis does not answer any more, killing it")
        watch.began()


def stop_all(all_children: Sequence[Child], stopping: list[float]) -> None:
    """Stop gateway and workers together, then Redis; a second signal has workers hand their jobs back at once."""
    stopping.append(time.monotonic())
    working = [child for child in all_children if child.name != "redis"]
    log.info("stopping", waits_for=names(working), drain_s=max((child.stop_s for child in working), default=0))
    for child in working:
        child.terminate()
    drain(working, stopping, time.monotonic())
    for child in all_children:
        child.stop()


def drain(working: Sequence[Child], stopping: Sequence[float], began: float) -> None:
    """Wait for what was told to stop, say what is waited for, and pass on a second signal."""
    told, hurried = began, False
    while left := [child for child in working if child.running]:
        now = time.monotonic()
        if not hurried and stopping[-1] - stopping[0] > SECOND_SIGNAL_S and now - began > SECOND_SIGNAL_S + POLL_S:
            hurried = True
            log.warning("second signal: jobs are handed back at once", waits_for=names(left))
            for child in left:
                child.terminate()
        for child in left:
            if now - began > child.stop_s:
                child.kill("child did not stop, killing it")
        if now - told > TELL_S:
            told = now
            log.info("still stopping; a second Ctrl-C hands jobs back at once", waits_for=names(left))
        time.sleep(POLL_S)


def names(found: Sequence[Child]) -> list[str]:
    return [child.name for child in found if child.running]
