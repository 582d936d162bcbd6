"""The supervisor restarts what dies and stops all of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis.exceptions import BusyLoadingError

from core.settings import Settings
from latentd.child import Child
from latentd.redis_watch import RedisWatch, answers
from latentd.supervisor import children, end_if_hung, stop_all
from tests.redis_server import RedisServer
from tests.waits import wait_for

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_dead_child_is_started_again_with_backoff() -> None:
    child = Child("sleeper", SLEEP, dict(os.environ), stop_s=5)
    child.tend(time.monotonic())
    assert child.process is not None
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    child.process.wait()
    child.tend(time.monotonic())
    assert child.process is None, "the first death waits a moment"
    assert child.start_at > time.monotonic()
    child.tend(child.start_at)
    assert child.process.pid != first
    child.stop()


def test_backoff_grows_and_stays_bounded() -> None:
    child = Child("exits", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), stop_s=5)
    now, waits = 0.0, []
    for _ in range(8):
        child.start_at = 0.0
        child.tend(now)
        assert child.process is not None
        child.process.wait()
        child.start_at = float("inf")
        started = child.started
        now = started + 1
        process = child.process
        assert process.poll() == 3
        child.tend(now)
        waits.append(round(child.start_at - now, 3))
    assert waits == sorted(waits)
    assert waits[-1] == 4.0


def test_only_the_first_end_in_a_row_that_comes_soon_is_looked_into() -> None:
    """Files are checked for minutes, while nothing else is tended."""
    codes: list[int] = []
    child = Child("exits", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), 5, ended=codes.append)
    for lived, ends in ((1, 1), (1, 1), (60, 1), (60, 1), (1, 2)):
        if child.process is None:  # after a long life it was started again at once
            child.start()
        assert child.process is not None
        child.process.wait()
        child.tend(child.started + lived)
        assert codes == [3] * ends


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ignores = tmp_path / "ignores"
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ignores)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    child = Child("stubborn", [sys.executable, "-c", code], dict(os.environ), stop_s=0.3)
    child.start()
    wait_for(ignores.exists, 10, "start")
    process = child.process
    assert process is not None
    child.stop()
    assert process.poll() is not None


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    """kill -9 of `up` itself leaves no process behind."""
    pid_file = tmp_path / "pid"
    code = (
        "import os, pathlib, sys, time\n"
        "from latentd.child import Child\n"
        "child = Child('sleeper', [sys.executable, '-c', 'import time; time.sleep(60)'], dict(os.environ), 5)\n"
        "child.start()\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.process.pid))\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as supervisor:
        wait_for(lambda: pid_file.exists() and pid_file.read_text() != "", 10, "start")
        supervisor.kill()
    pid = int(pid_file.read_text())
    wait_for(lambda: not running(pid), 10, "end")


def running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_redis_url_means_no_redis_of_our_own(tmp_path: Path) -> None:
    names = [c.name for c in children(Settings(redis_url="redis://127.0.0.1:6379", data_dir=tmp_path), insecure=False)]
    assert names[-1] == "gateway"
    assert "redis" not in names


def test_the_gateway_has_the_metrics_port_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have one each by an option, which goes before."""
    monkeypatch.setenv("LATENTD_METRICS_PORT", "9100")
    *_, worker, gateway = children(Settings(data_dir=tmp_path), insecure=False)
    assert gateway.env["LATENTD_METRICS_PORT"] == "9100"
    assert worker.more()[0] == "--metrics-port"


def test_own_redis_listens_on_a_private_socket_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = Settings(data_dir=tmp_path)
    redis = children(settings, insecure=False)[0]
    options = dict(zip(redis.command[1::2], redis.command[2::2], strict=True))
    assert options["--port"] == "0"
    assert options["--appendfsync"] == "always"
    assert settings.redis_socket.parent.stat().st_mode & 0o777 == 0o700
    redis.start()
    redis.stop()


def test_a_worker_whose_metrics_port_is_taken_gets_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(data_dir=tmp_path, worker_metrics_port=taken.getsockname()[1])
        worker = next(child for child in children(settings, insecure=False) if child.name.startswith("worker"))
        assert worker.more() == ["--metrics-port", "0"]
    assert worker.more() == ["--metrics-port", str(settings.worker_metrics_port)]


def test_a_child_that_refuses_at_its_first_start_ends_all() -> None:
    child = Child("refuses", [sys.executable, "-c", "raise SystemExit(1)"], dict(os.environ), stop_s=5, refusal=1)
    child.start()
    assert child.process is not None
    child.process.wait()
    with pytest.raises(SystemExit):
        child.tend(time.monotonic())


def test_a_child_that_had_served_is_started_again_whatever_it_says(tmp_path: Path) -> None:
    code = f"import pathlib, sys; p = pathlib.Path({str(tmp_path / 'was')!r}); sys.exit(1 if p.exists() else p.touch())"
    child = Child("serves", [sys.executable, "-c", code], dict(os.environ), stop_s=5, refusal=1)
    for _ in range(3):
        child.start()
        assert child.process is not None
        child.process.wait()
        child.tend(time.monotonic())
    assert child.deaths == 3


def test_a_second_signal_is_passed_on(tmp_path: Path) -> None:
    """As a worker does: the first drains, the second hands back."""
    code = (
        "import pathlib, signal, sys, time\n"
        "told = []\n"
        "signal.signal(15, lambda *_: told.append(1))\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "while len(told) < 2: time.sleep(0.01)\n"
    )
    child = Child("drains", [sys.executable, "-c", code], dict(os.environ), stop_s=30)
    child.start()
    wait_for((tmp_path / "up").exists, 10, "start")
    now = time.monotonic()
    stopping = [now - 5, now]
    stop_all([child], stopping)
    assert child.process is not None
    assert child.process.returncode == 0


def test_a_redis_that_hangs_is_killed_and_started_again() -> None:
    with RedisServer() as server:
        watch = RedisWatch(server.url, every_s=0.02)
        watch.start()
        redis = Child("redis", SLEEP, dict(os.environ), stop_s=5)
        redis.start()
        redis.started -= 10
        end_if_hung(redis, watch, silent_s=1.0)
        assert redis.running
        server.signal(signal.SIGSTOP)
        wait_for(lambda: watch.silent_s > 1.0, 10, "silence")
        end_if_hung(redis, watch, silent_s=1.0)
        assert not redis.running
        server.signal(signal.SIGCONT)
        wait_for(lambda: watch.silent_s == 0.0, 10, "an answer")


def test_a_redis_that_loads_or_is_busy_counts_as_alive() -> None:
    class Loading:
        def ping(self) -> None:
            raise BusyLoadingError("Redis is loading the dataset in memory")

    assert answers(Loading())  # type: ignore[arg-type]  # all that is called of a client
