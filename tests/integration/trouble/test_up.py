"""`latentd up` on what can't work: one line that says why, exit 1, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from core.settings import Settings
from latentd.child import die_with_parent
from latentd.data_lock import lock
from latentd.embedded_server import find_server, server_command, wait_until_up
from tests.disks import small_disk
from tests.redis_server import RedisServer
from tests.service import Service, free_port
from tests.starved import allowance
from tests.waits import wait_for


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory with a short path, for the socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="latentd-data-"))
    yield folder
    shutil.rmtree(folder)


def on_a_terminal() -> None:
    """Runs in the child: whoever runs the tests may ignore hang-ups."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    die_with_parent()


def up(models: Path, data: Path, command: str = "up", **env: str) -> subprocess.Popen[str]:
    """Start a command of latentd with the tiny models."""
    own = {"LATENTD_MODELS_DIR": str(models), "LATENTD_DATA_DIR": str(data), "LATENTD_PORT": str(free_port())}
    inherited = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    words = [sys.executable, "-m", "latentd", *command.split()]
    return subprocess.Popen(
        words, env=inherited | own | env, stderr=subprocess.PIPE, text=True, preexec_fn=on_a_terminal
    )


def refusal(process: subprocess.Popen[str]) -> str:
    """What the one line says of why a command ended with 1; all are JSON."""
    _, said = process.communicate(timeout=180)
    details = [line["detail"] for line in map(json.loads, said.splitlines()) if line["event"] == "can't work"]
    assert (process.returncode, len(details)) == (1, 1), said
    return str(details[0])


def test_one_data_directory_serves_one_service(tiny_models: Path) -> None:
    with Service({"LATENTD_MODELS_DIR": str(tiny_models), "LATENTD_MODEL": "tiny"}) as first:
        line = refusal(up(tiny_models, first.folder / "data"))
        assert f"is in use by `latentd up`, process {first.pid} since " in line
        assert first.client.get("/readyz").status_code == 200


def test_a_lock_outlives_a_killed_up_until_its_redis_has_ended(data: Path) -> None:
    descriptor = lock(data)
    with subprocess.Popen(["sleep", "0.5"], pass_fds=[descriptor]) as redis:
        os.close(descriptor)
        (data / "up.lock").write_text(f'{{"pid": {ended_pid()}, "since": "then"}}')
        os.close(lock(data))
        assert redis.poll() is not None


def ended_pid() -> int:
    with subprocess.Popen(["true"]) as done:
        done.wait()
    return done.pid


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("LATENTD_HOST", "192.0.2.1", "LATENTD_HOST=192.0.2.1 LATENTD_PORT="),
        ("LATENTD_HOST", "a" * 70 + ".example", "LATENTD_PORT="),
        ("LATENTD_HOST", "0.0.0.0", "is reachable by others and there is no API key"),
        ("LATENTD_MODELS_DIR", "/missing", "LATENTD_MODELS_DIR=/missing: there is no such folder"),
        ("LATENTD_MODEL", "nobody", "LATENTD_MODEL='nobody': no such model; there are: "),
    ],
)
def test_what_can_t_work_ends(tiny_models: Path, data: Path, variable: str, value: str, told: str) -> None:
    assert told in refusal(up(tiny_models, data, **{variable: value}))


def test_a_port_that_is_taken_ends_up_before_anything_starts(tiny_models: Path, data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"LATENTD_PORT={port}: Address already in use" in refusal(up(tiny_models, data, LATENTD_PORT=port))
    assert not (data / "redis").exists()


@pytest.mark.parametrize("command", ["up", "gateway", "worker --model tiny --device cpu"])
def test_a_wrong_password_ends_every_process(tiny_models: Path, data: Path, command: str) -> None:
    with RedisServer() as server:
        with server.connect() as redis:
            redis.config_set("requirepass", "right")
        url = f"unix://:wrong@{server.socket}"
        line = refusal(up(tiny_models, data, command, REDIS_URL=url))
    assert "Redis refuses the user or password of REDIS_URL" in line
    assert "wrong@" not in line


@contextmanager
def embedded(data: Path) -> Iterator[Redis]:
    """The Redis that `up` runs in a data directory, by itself."""
    settings = Settings(redis_url=None, data_dir=data)
    command = server_command(find_server(), data / "redis", settings.redis_socket)
    with subprocess.Popen(command, preexec_fn=die_with_parent, stdout=subprocess.DEVNULL) as server:
        wait_until_up(settings.redis, 10)
        with Redis.from_url(settings.redis) as redis:
            yield redis
        server.terminate()


def test_a_damaged_append_only_file_is_named_with_what_mends_it(tiny_models: Path, data: Path) -> None:
    with embedded(data) as redis:
        for number in range(200):
            redis.set(f"kept:{number}", "value")
    (file,) = (data / "redis/appendonlydir").glob("*.incr.aof")
    whole = file.read_bytes()
    file.write_bytes(whole[:-400] + b"\0garbage" * 10 + whole[-320:])
    line = refusal(up(tiny_models, data))
    assert f"{file} is damaged" in line
    subprocess.run(["sh", "-c", line.partition("with: ")[2]], input="y\n", text=True, check=True, capture_output=True)
    with embedded(data) as redis:
        assert redis.get("kept:180") == b"value"


def test_a_full_disk_keeps_no_service_from_starting(data: Path) -> None:
    """Redis says what it can't write, and goes on once there is room."""
    with small_disk(data / "small", 1) as small:
        (small / "filler").write_bytes(bytes(1 << 20))
        os.close(lock(small))


@pytest.mark.parametrize("place", [".", "redis"])
def test_a_folder_that_can_not_be_written_ends_up_with_a_line(tiny_models: Path, data: Path, place: str) -> None:
    """Root may write what permissions forbid, but no file system that is mounted to be read."""
    service = data / "service"
    with small_disk(service, 8) if place == "." else nullcontext():
        service.mkdir(exist_ok=True)
        with small_disk(service / "redis", 8):
            subprocess.run(["mount", "-o", "remount,ro", str(service / place)], check=True)
            line = refusal(up(tiny_models, service))
    assert "can't be written: Read-only file system" in line
    assert "LATENTD_DATA_DIR" in line


def test_a_damaged_base_of_the_append_only_file_is_named_as_well(tiny_models: Path, data: Path) -> None:
    with embedded(data) as redis:
        for number in range(200):
            redis.set(f"kept:{number}", "value")
        redis.bgrewriteaof()
        until = time.monotonic() + 60
        while (
            redis.info("persistence")["aof_rewrite_in_progress"] or redis.info("persistence")["aof_current_size"] == 0
        ):
            assert time.monotonic() < until
            time.sleep(0.05)
    (file,) = (data / "redis/appendonlydir").glob("*.base.rdb")
    whole = file.read_bytes()
    assert len(whole) > 1000
    file.write_bytes(whole[:500] + b"\xff" * 100 + whole[600:])
    line = refusal(up(tiny_models, data))
    assert f"{file} is damaged" in line
    assert f"Put {file.parent} back from a backup, or move it away" in line
    file.parent.rename(data / "moved")
    with embedded(data) as redis:
        assert redis.dbsize() == 0


def test_a_service_whose_log_nobody_reads_draws_and_ends_with_its_terminal(tiny_models: Path, data: Path) -> None:
    port = str(free_port())
    process = up(tiny_models, data, LATENTD_PORT=port, LATENTD_MODEL="tiny")
    assert process.stderr is not None
    process.stderr.close()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def serves() -> bool:
            with suppress(httpx2.TransportError):
                return client.get("/readyz").status_code == 200
            return False

        wait_for(serves, 60, "the gateway")
        drawn = client.post("/v1/txt2img", json={"model": "tiny", "prompt": "a"}, headers={"Prefer": "wait=60"})
        assert drawn.json()["status"] == "succeeded"
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) in (0, 120)  # 120: how Python ends where standard error can't be flushed
    with embedded(data) as redis:
        assert redis.hget(f"latentd:job:{drawn.json()['id']}", "status") == b"succeeded"


def test_a_second_signal_ends_up_at_once_and_says_what_it_waits_for(tiny_models: Path) -> None:
    with Service({"LATENTD_MODELS_DIR": str(tiny_models), "LATENTD_MODEL": "tiny"}) as service:
        body = {"model": "tiny", "prompt": "a", "steps": 1000, "num_images": 16}
        job = service.client.post("/v1/txt2img", json=body).json()["id"]
        wait_for(lambda: service.client.get(f"/v1/jobs/{job}").json()["status"] == "running", 60, "the job's start")
        os.kill(service.pid, signal.SIGINT)
        log = service.log_path.read_text
        wait_for(lambda: '"stopping"' in log() and '"draining' in log(), 60, "the first signal")
        time.sleep(1.5)  # another that comes sooner counts as the same Ctrl-C
        allowed, began = allowance(service.pid), time.monotonic()
        os.kill(service.pid, signal.SIGINT)
        while service.processes():
            allowed()
            time.sleep(0.02)
        assert time.monotonic() - began - allowed() < 10
        service.stop()
        said = service.log_path.read_text()
    assert '"waits_for": ["worker-cpu", "gateway"]' in said
    assert "handing back at once" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_no_fault_of_up_nor_of_a_gateway(number: signal.Signals, tiny_models: Path, data: Path) -> None:
    with RedisServer() as server:
        for command in ("up", "gateway"):
            process = up(tiny_models, data, command, REDIS_URL=server.url)
            assert process.stderr is not None
            next(line for line in process.stderr if '"url"' in line)  # the gateway is ready
            process.send_signal(number)
            _, said = process.communicate(timeout=180)
            assert (process.returncode, "Traceback" in said) == (0, False), said
