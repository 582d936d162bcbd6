"""Calls that wait for their job while Redis or the storage is away: they go on, or say where the job is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from contract.redis_keys import JOBS_KEY, attended_key, job_key
from core.storage import open_store
from service.app import create_app
from tests.compat import job_made, listed
from tests.faults.proxy import Proxy
from tests.gateway import finish, png, running, settings_for
from tests.redis_server import RedisServer
from tests.waits import within

GENERATIONS = "/v1/images/generations"


@pytest.fixture
def proxy(redis_server: RedisServer, redis: Redis) -> Iterator[Proxy]:  # noqa: ARG001 (emptied)
    with Proxy(redis_server.socket) as made:
        yield made


@contextmanager
def behind(proxy: Proxy, folder: Path) -> Iterator[httpx2.Client]:
    """A gateway that takes Redis for away at once, not after redis-py's tries of many seconds."""
    settings = settings_for(proxy.url, folder, max_wait_s=60.0, compat_wait_s=60.0)
    app = create_app(settings)
    app.state.gateway.redis.set_retry(Retry(NoBackoff(), 0))
    with running(settings, app) as client:
        yield client


@contextmanager
def away(proxy: Proxy) -> Iterator[None]:
    """Redis answers nobody until the block ends."""
    proxy.refusing = True
    proxy.cut()
    yield
    proxy.refusing = False


def made(redis: Redis) -> str:
    """The id of the one job, as soon as there is one."""
    return str(within(lambda: next(iter(listed(redis, JOBS_KEY)), "")))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/txt2img", {}),
        (GENERATIONS, {}),
        (GENERATIONS, {"stream": True}),
        (GENERATIONS, {"stream": True, "partial_images": 1}),
        ("/sdapi/v1/txt2img", {}),
    ],
)
def test_a_wait_outlives_a_restart_of_redis(
    redis: Redis, proxy: Proxy, tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    with behind(proxy, tmp_path) as client, ThreadPoolExecutor(1) as threads:
        headers = {"Prefer": "wait=60", "Accept": "application/json, text/event-stream"}
        waiting = threads.submit(client.post, path, json={"prompt": "x", **body}, headers=headers)
        job_id = made(redis)
        if path != "/v1/txt2img":
            job_made(redis)
        time.sleep(0.5)
        with away(proxy):
            time.sleep(2)
        finish(redis, open_store(str(tmp_path / "data" / "objects")), job_id, png())
        answer = waiting.result()
    assert answer.status_code == 200, answer.text
    assert ("completed" in answer.text) == ("stream" in body)
    assert listed(redis, JOBS_KEY) == [job_id]


def test_who_waits_for_a_job_learns_its_id_though_redis_stays_away(redis: Redis, proxy: Proxy, tmp_path: Path) -> None:
    with behind(proxy, tmp_path) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, "/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=2"})
        job_id = made(redis)
        time.sleep(0.5)
        with away(proxy):
            answer = waiting.result()
    assert (answer.status_code, answer.json()["id"]) == (202, job_id)
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"


def test_who_leaves_while_redis_is_away_leaves_no_job(redis: Redis, proxy: Proxy, tmp_path: Path) -> None:
    body = {"prompt": "x", "stream": True}
    with behind(proxy, tmp_path) as client:
        with client.stream("POST", GENERATIONS, json=body) as answer, away(proxy):
            assert next(answer.iter_lines()) == ": accepted"
            job_id = job_made(redis)
            answer.close()
            time.sleep(2)
            assert redis.hget(job_key(job_id), "status") == b"queued"
        assert within(lambda: redis.hget(job_key(job_id), "status") == b"canceled")
        assert redis.zcard(attended_key("")) == 0


def test_who_waits_for_a_picture_learns_its_job_s_id_though_the_storage_is_away(
    redis: Redis, proxy: Proxy, tmp_path: Path
) -> None:
    objects, headers = tmp_path / "data" / "objects", {"Prefer": "wait=60", "Accept": "image/png"}
    with behind(proxy, tmp_path) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, "/v1/txt2img", json={"prompt": "x"}, headers=headers)
        job_id = made(redis)
        shutil.rmtree(objects)
        objects.write_text("a file where the folder was: every call fails")
        finish(redis, open_store(str(tmp_path / "elsewhere")), job_id, png())
        answer = waiting.result()
    assert (answer.status_code, answer.headers["location"]) == (503, f"/v1/jobs/{job_id}")
