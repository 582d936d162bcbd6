"""Two releases on one Redis while one rolls out, and data of a release that is too old."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.redis_keys import CARDS_KEY, JOBS_KEY, LAYOUT_KEY, job_key, serving_key, state_key, step_times_key
from core.settings import Settings
from latentd.embedded_server import find_server, server_command, wait_until_up
from tests.enqueue import job_state
from tests.gateway import running
from tests.integration.newer import UNKNOWN
from tests.integration.releases import NEIGHBOUR, THIS, Release, gateway, worker
from tests.service import free_port
from tests.waits import wait_for


def post(client: httpx2.Client, **fields: Any) -> str:
    answer = client.post("/v1/txt2img", json={"prompt": "red heart", "width": 64, "height": 64} | fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait_end(redis: Redis, job_id: str, seconds: float = 60) -> None:
    wait_for(lambda: "ended_at" in job_state(redis, job_id), seconds, "end")


def check_told(client: httpx2.Client, job_id: str, status: str) -> dict[str, Any]:
    """Read everything that a gateway tells of an ended job."""
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == status
    assert job in client.get("/v1/jobs").json()["items"]
    types = [line for line in client.get(f"/v1/jobs/{job_id}/events").text.splitlines() if line.startswith("event: ")]
    assert types[-1] == f"event: {status}"
    assert client.get(f"/v1/jobs/{job_id}/trace").json()["status"] == status
    for image in job["images"]:
        assert client.get(image["url"]).status_code == 200
    assert [model["id"] for model in client.get("/v1/models").json()["items"]] == ["tiny", "tiny-upscale"]
    return job


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("first", "second"), [(NEIGHBOUR, THIS), (THIS, NEIGHBOUR)], ids=["newer-first", "older-first"]
)
def test_releases_work_side_by_side_through_a_death_and_a_deadline(
    redis: Redis, settings: Settings, tmp_path: Path, first: Release, second: Release
) -> None:
    """A worker of one release dies with jobs of gateways of both; a worker of the other goes on with them."""
    with gateway(first, settings, tmp_path) as old, gateway(second, settings, tmp_path) as new:
        with worker(first, settings, tmp_path) as dying:
            done = post(new, steps=4)
            wait_end(redis, done)
            lasting = [post(client, steps=1000, sampler="ddim") for client in (old, new)]
            wait_for(lambda: all(redis.exists(state_key(job_id)) for job_id in lasting), 60, "savepoints")
            dying.kill()
            redis.delete(step_times_key("tiny"))  # a late death had told them, and gateways would refuse the deadline
        late = [post(client, deadline_ms=1_000, steps=1000) for client in (old, new)]
        canceled = [post(client, steps=1000, priority="bulk") for client in (old, new)]
        for job_id, client in zip(canceled, (new, old), strict=True):
            assert client.delete(f"/v1/jobs/{job_id}").json()["status"] == "canceled"
        with worker(second, settings, tmp_path):
            for job_id in (*lasting, *late):
                wait_end(redis, job_id, 180)
        for client in (old, new):
            check_told(client, done, "succeeded")
            for job_id in lasting:
                assert check_told(client, job_id, "succeeded")["error"] is None
            for job_id in late:
                assert check_told(client, job_id, "failed")["error"]["status"] == 504
            for job_id in canceled:
                check_told(client, job_id, "canceled")
            assert [len(client.get(f"/v1/jobs/{job_id}/trace").json()["runs"]) for job_id in lasting] == [2, 2]
    written = [job_state(redis, job_id) for job_id in (done, *lasting, *late)]
    assert any(UNKNOWN in state["record"] for state in written), "there were fields that one of them doesn't know"
    assert redis.hlen(CARDS_KEY) == 1
    assert redis.zcard(serving_key("tiny")) <= 2


def old_redis(redis: Redis) -> None:
    """What a release before 0.1.0 left: a waiting job whose request is among its arguments."""
    redis.zadd(JOBS_KEY, {"a": 1})
    redis.hset(job_key("a"), mapping={"record": json.dumps({"id": "a"}), "status": "queued", "step": 0, "steps": 4})


def test_a_gateway_refuses_an_older_redis_that_comes_later_until_it_is_drained(
    redis: Redis, settings: Settings
) -> None:
    old_redis(redis)
    with running(settings) as client:
        for path in ("/v1/jobs", "/v1/jobs/a", "/readyz"):
            answer = client.get(path)
            assert answer.status_code == 503, path
            assert "run the release that made them until GET /v1/jobs lists none" in answer.json()["detail"]
        assert client.post("/v1/txt2img", json={"prompt": "x"}).status_code == 503
        assert client.get("/livez").status_code == 200
        redis.delete(JOBS_KEY, job_key("a"))
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/txt2img", json={"prompt": "x"}).status_code == 202
    assert redis.get(LAYOUT_KEY) is not None


@pytest.mark.parametrize("command", ["gateway", "worker --model tiny --device cpu", "up"])
def test_commands_end_with_one_line_on_an_older_redis(redis: Redis, settings: Settings, command: str) -> None:
    old_redis(redis)
    before = {key: redis.dump(key) for key in redis.keys("*")}
    ended = run(settings, command, {"REDIS_URL": settings.redis})
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stderr.splitlines()[-1])["detail"].startswith("Redis holds jobs from before 0.1.0")
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_up_refuses_an_older_data_directory(settings: Settings) -> None:
    command = server_command(find_server(), settings.data_dir.resolve() / "redis", settings.redis_socket)
    embedded = settings.model_copy(update={"redis_url": None})
    with subprocess.Popen(command) as server:
        wait_until_up(embedded.redis, 10)
        with Redis.from_url(embedded.redis) as redis:
            old_redis(redis)
        server.terminate()
    ended = run(settings, "up", {})
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stderr.splitlines()[-1])["detail"].startswith("Redis holds jobs from before 0.1.0")


def run(settings: Settings, command: str, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"} | more
    environment |= {"LATENTD_MODELS_DIR": str(settings.models_dir), "LATENTD_DATA_DIR": str(settings.data_dir)}
    environment |= {"LATENTD_PORT": str(free_port()), "LATENTD_THREADS": "1"}
    line = [sys.executable, "-m", "latentd", *command.split()]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=180, check=False)
