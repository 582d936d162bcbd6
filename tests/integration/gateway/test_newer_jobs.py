"""Jobs of a newer release's gateway, with what this one doesn't know yet, while it still stands beside it."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from contract.redis_keys import JOBS_KEY, job_key, queue_key, started_key
from core.storage import Store, open_store
from tests.enqueue import job_state
from tests.gateway import finish, png

LIMIT = 4


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {"queue_limit": LIMIT}


@pytest.fixture
def store(folder: Path) -> Store:
    return open_store(str(folder / "data" / "objects"))


def post(client: httpx2.Client, key: str = "", **fields: object) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/txt2img", json={"prompt": "red heart"} | fields, headers=headers)


def made_newer(redis: Redis, job_id: str) -> str:
    """As if its gateway knew a kind that this one doesn't."""
    record = json.loads(job_state(redis, job_id)["record"])
    record["request"] |= {"kind": "txt2video", "frames": 24}
    redis.hset(job_key(job_id), "record", json.dumps(record))
    return job_id


def ended_newer(redis: Redis, store: Store, job_id: str) -> str:
    """As if its worker wrote a format of pictures that this release doesn't know."""
    finish(redis, store, job_id, png((64, 64)))
    result = job_state(redis, job_id)["result"]
    redis.hset(job_key(job_id), "result", result.replace('"png"', '"avif"'))
    return job_id


def test_lists_leave_a_newer_release_s_jobs_out(client: httpx2.Client, redis: Redis) -> None:
    older, newer, last = (post(client).json()["id"] for _ in range(3))
    made_newer(redis, newer)
    for query in ("", "?kind=txt2img", "?q=heart", "?limit=3"):
        answer = client.get(f"/v1/jobs{query}")
        assert answer.status_code == 200, answer.text
        assert [job["id"] for job in answer.json()["items"]] == [last, older]
    page = client.get("/v1/jobs?limit=1").json()
    newest = client.get(f"/v1/jobs?limit=1&cursor={page['next_cursor']}").json()
    assert (newest["items"], newest["next_cursor"] is None) == ([], False)


def test_lists_leave_a_job_out_whose_end_alone_is_newer(client: httpx2.Client, redis: Redis, store: Store) -> None:
    older, newer = (post(client).json()["id"] for _ in range(2))
    ended_newer(redis, store, newer)
    for query in ("", "?status=succeeded", "?q=heart"):
        answer = client.get(f"/v1/jobs{query}")
        assert answer.status_code == 200, answer.text
        assert [job["id"] for job in answer.json()["items"]] == ([] if "status" in query else [older])
    alone = client.get(f"/v1/jobs/{newer}")
    assert (alone.status_code, "can't read its images.0.format" in alone.text) == (503, True)


def test_lists_leave_a_job_out_whose_failure_is_newer(client: httpx2.Client, redis: Redis) -> None:
    older, newer = (post(client).json()["id"] for _ in range(2))
    redis.hset(job_key(newer), mapping={"status": "failed", "error": '{"title": "no", "status": "late", "detail": ""}'})
    assert [job["id"] for job in client.get("/v1/jobs").json()["items"]] == [older]
    assert client.get(f"/v1/jobs/{newer}").status_code == 503


@pytest.mark.parametrize("path", ["", "/events", "/trace"])
def test_one_of_them_is_a_503_that_says_why(client: httpx2.Client, redis: Redis, path: str) -> None:
    newer = made_newer(redis, post(client).json()["id"])
    answer = client.get(f"/v1/jobs/{newer}{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "a newer release of latentd wrote this job, and this gateway can't read its request" in answer.text


def test_its_picture_is_a_503_too(client: httpx2.Client, redis: Redis, store: Store) -> None:
    job_id = made_newer(redis, ended_newer(redis, store, post(client).json()["id"]))
    assert client.get(f"/v1/images/{job_id}-0").status_code == 503


def test_it_can_be_cancelled_and_purged(client: httpx2.Client, redis: Redis) -> None:
    newer = made_newer(redis, post(client).json()["id"])
    assert client.delete(f"/v1/jobs/{newer}").status_code == 503
    assert job_state(redis, newer)["status"] == "canceled"
    assert client.delete(f"/v1/jobs/{newer}?purge=true").status_code == 204


def test_its_key_makes_no_second_job(client: httpx2.Client, redis: Redis) -> None:
    newer = made_newer(redis, post(client, "k").json()["id"])
    assert post(client, "k").status_code == 503
    assert redis.zrange(JOBS_KEY, 0, -1) == [newer.encode()]


def test_a_full_lane_says_when_to_come_back_beside_them(client: httpx2.Client, redis: Redis) -> None:
    newer = made_newer(redis, post(client).json()["id"])
    queue = "latentd.painter.interactive"
    redis.lrem(queue_key(queue), 0, newer)
    redis.zadd(started_key(queue), {f"{newer}:execution": 2**31})
    redis.hset(job_key(newer), mapping={"status": "running", "started_at": "2026-01-01T00:00:00+00:00", "step": 3})
    for _ in range(LIMIT):
        assert post(client).status_code == 202
    refused = post(client)
    assert (refused.status_code, int(refused.headers["Retry-After"]) >= 1) == (429, True)
