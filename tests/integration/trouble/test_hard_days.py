"""Days on which Redis refuses writes, comes back, may evict, or shows another time than a machine."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from structlog.testing import capture_logs

from contract.redis_keys import SEEN_KEY
from core.clock import CLOCK, RedisClock
from core.settings import Settings
from core.storage import open_store
from jobs.cancel import cancel
from jobs.deployment import Witness
from jobs.end import Retention
from jobs.layout import check_layout
from latentd.cli.info import redis_fact
from service.app import create_app
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.gateway import running, settings_for
from tests.integration.processes import COMMAND, WorkerProcess, ended
from tests.integration.rig import Rig, tiny_settings
from tests.redis_server import RedisServer
from tests.starved import allowance
from tests.waits import wait_for
from workers.queue.circuit_breaker import connect

REFUSING = ("config set min-replicas-to-write 1", "config set min-replicas-to-write 0")
REPLICA = ("replicaof 127.0.0.1 1", "replicaof no one")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(aof=True) as started:
        yield started


def send(server: RedisServer, command: str) -> None:
    with server.connect() as redis:
        redis.execute_command(*command.split())


@pytest.mark.parametrize(("refuse", "take"), [REFUSING, REPLICA])
def test_a_redis_that_takes_no_writes_is_away_for_clients(
    server: RedisServer, tmp_path: Path, refuse: str, take: str
) -> None:
    with running(settings_for(server.url, tmp_path)) as client:
        job_id = client.post("/v1/txt2img", json={}).json()["id"]
        send(server, refuse)
        assert client.post("/v1/txt2img", json={}).status_code == 503
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 503
        send(server, take)
        assert client.post("/v1/txt2img", json={}).status_code == 202
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 200


@pytest.mark.parametrize(("refuse", "take"), [REFUSING, REPLICA])
def test_jobs_go_on_when_redis_takes_writes_again(
    server: RedisServer, tiny_models: Path, tmp_path: Path, refuse: str, take: str
) -> None:
    with connect(server.url) as redis:
        rig = Rig(redis, tiny_settings(tiny_models, server.url, tmp_path))
        enqueue(redis, "a", make_request(steps=400))
        rig.until(lambda: rig.step("a") >= 5)
        send(server, refuse)
        rig.until(lambda: not rig.engine.busy)
        assert job_state(redis, "a")["status"] == "running"
        send(server, take)
        assert rig.finish("a") == ["succeeded"]
        assert event_types(redis, "a").count("succeeded") == 1
        rig.close()


def test_jobs_end_in_a_redis_that_is_full(server: RedisServer, tiny_models: Path, tmp_path: Path) -> None:
    """What has ended frees memory in time; what runs asks for no more than its own pictures."""
    with connect(server.url) as redis:
        rig = Rig(redis, tiny_settings(tiny_models, server.url, tmp_path))
        enqueue(redis, "a", make_request(steps=40, num_images=2))
        rig.until(lambda: rig.step("a") >= 5)
        send(server, "config set maxmemory 1")
        assert rig.finish("a") == ["succeeded"]
        assert event_types(redis, "a").count("image") == 2
        send(server, "config set maxmemory 0")
        rig.close()


def test_a_running_job_is_canceled_in_a_redis_that_is_full(
    server: RedisServer, tiny_models: Path, tmp_path: Path
) -> None:
    with connect(server.url) as redis:
        rig = Rig(redis, tiny_settings(tiny_models, server.url, tmp_path))
        enqueue(redis, "a", make_request(steps=400))
        rig.until(lambda: rig.step("a") >= 5)
        send(server, "config set maxmemory 1")
        assert cancel(redis, Retention(60, 60), "a") == "running"
        assert rig.finish("a") == ["canceled"]
        send(server, "config set maxmemory 0")
        rig.close()


def test_the_first_calls_after_redis_is_back_are_served(server: RedisServer, tmp_path: Path) -> None:
    """Every pooled connection is stale then."""
    with running(settings_for(server.url, tmp_path)) as client, ThreadPoolExecutor(16) as pool:

        def post(_: int) -> int:
            with httpx2.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
                return own.post("/v1/txt2img", json={}).status_code

        assert set(pool.map(post, range(32))) == {202}
        job_id = client.get("/v1/jobs").json()["items"][0]["id"]
        server.kill()
        assert client.get("/v1/jobs").status_code == 503
        server.start()
        assert set(pool.map(post, range(32))) == {202}
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 200


def test_a_redis_that_may_evict_is_told_everywhere(server: RedisServer, tmp_path: Path) -> None:
    settings = settings_for(server.url, tmp_path)
    with running(settings) as client, server.connect() as redis:
        assert "latentd_redis_may_evict 0.0" in client.get("/metrics").text
        assert "maxmemory-policy" not in redis_fact(settings)
        redis.config_set("maxmemory-policy", "allkeys-lru")
        assert "latentd_redis_may_evict 1.0" in client.get("/metrics").text
        assert "maxmemory-policy is allkeys-lru" in redis_fact(settings)
        with capture_logs() as logs:
            check_layout(redis)
    assert [line["maxmemory_policy"] for line in logs] == ["allkeys-lru"]


def test_a_redis_that_fills_up_is_told(server: RedisServer, tmp_path: Path) -> None:
    def ratio() -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("latentd_redis_memory_ratio ")).split()[1])

    with running(settings_for(server.url, tmp_path)) as client, server.connect() as redis:
        assert ratio() == 0, "it has no bound"
        redis.config_set("maxmemory", 64 * 2**20)
        before = ratio()
        assert 0 < before < 0.5
        for number in range(16):  # in pieces: buffers on their way count as well
            redis.set(f"large{number}", bytes(2 * 2**20))
        assert ratio() > before + 0.4


def test_doctor_tells_of_a_clock_that_is_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "clock" not in redis_fact(settings)
    monkeypatch.setattr("latentd.cli.info.RedisClock", partial(RedisClock, own=lambda: time.time() - 90))
    allowed = allowance(os.getpid())  # of Redis, too: its answer is as right as it is quick
    said = re.search(r"this machine's clock is (\d+\.\d) s behind Redis's", redis_fact(settings))
    assert said
    assert abs(float(said[1]) - 90) - allowed() < 0.05


def test_a_gateway_whose_clock_is_off_shows_redis_s_time(
    redis: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CLOCK, "_own", lambda: time.time() + 600)
    settings, allowed = settings_for(redis_url, tmp_path), allowance(os.getpid())
    with running(settings, create_app(settings)) as client:
        made = client.post("/v1/txt2img", json={"deadline_ms": 60_000}).json()
        text = client.get("/metrics").text
    ahead = next(line for line in text.splitlines() if line.startswith("latentd_clock_ahead_seconds "))
    assert abs(float(ahead.split()[1]) - 600) - allowed() < 1
    created = RedisClock()
    created.sync(redis)
    assert abs((created.now() - datetime.fromisoformat(made["created_at"])).total_seconds()) < 60


@pytest.mark.parametrize("command", [COMMAND, ("gateway", "--port", "0")], ids=["worker", "gateway"])
def test_a_machine_with_a_folder_of_its_own_is_told_what_to_set(
    redis: Redis, settings: Settings, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Its pictures would be 410 to all who ask the other machine."""
    witness = Witness(settings, redis, open_store(settings.storage), 0.2)
    witness.start()
    try:
        wait_for(lambda: bool(redis.exists(SEEN_KEY)), 10, "pair")
        second = WorkerProcess(settings.model_copy(update={"data_dir": tmp_path / "second"}), tmp_path, command=command)
        assert ended(second.process, 60) == 1
        assert "set LATENTD_STORAGE_URL to theirs" in second.log.read_text().splitlines()[-1]
    finally:
        witness.stop()
        witness.join(10)
