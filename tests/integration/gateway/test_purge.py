"""Purges beside new requests with the same Idempotency-Key: what was accepted exists, and no id comes back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import httpx2
import pytest
from obstore.store import LocalStore
from redis import Redis

from contract.job import JobRecord
from contract.redis_keys import events_key, gone_key, idempotency_key, job_key
from core.storage import Store, open_store
from jobs.create import key_digest
from tests.gateway import finish, png, running, settings_for
from tests.redis_server import RedisServer

ROUNDS = 100
POSTERS = 3
KEY = {"Idempotency-Key": "k"}
HELD = idempotency_key(key_digest("k", "upscale", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def client(redis_server: RedisServer, folder: Path) -> Iterator[httpx2.Client]:
    with running(settings_for(redis_server.url, folder)) as client:
        yield client


@pytest.fixture
def store(folder: Path) -> Store:
    return open_store(str(folder / "data" / "objects"))


def post(client: httpx2.Client, shade: int = 0) -> httpx2.Response:
    """Ask for a job under the one key."""
    files = {"image": ("a.png", png(colour=(shade, 0, 0)), "image/png")}
    return client.post("/v1/upscale", files=files, headers=KEY)


def uploads(store: Store) -> list[str]:
    assert isinstance(store, LocalStore)
    return sorted(item["path"] for page in store.list("uploads") for item in page)


def upload_of(redis: Redis, job_id: str) -> str:
    record = JobRecord.read(redis.hget(job_key(job_id), "record") or b"")
    return record.request.files["image"].path


def test_what_is_accepted_beside_a_purge_exists(client: httpx2.Client, redis: Redis, store: Store) -> None:
    """Each round purges the ended job of a key while others post under it."""
    seen: set[str] = set()
    job_id = post(client).json()["id"]
    for _ in range(ROUNDS):
        finish(redis, store, job_id, png((64, 64)))
        together = Barrier(POSTERS + 1)

        def purge(job_id: str = job_id, together: Barrier = together) -> httpx2.Response:
            together.wait()
            return client.delete(f"/v1/jobs/{job_id}?purge=true")

        def ask(_: int, together: Barrier = together) -> httpx2.Response:
            together.wait()
            return post(client)

        with ThreadPoolExecutor(POSTERS + 1) as threads:
            purged = threads.submit(purge)
            answers = list(threads.map(ask, range(POSTERS)))
        assert purged.result().status_code == 204
        assert client.get(f"/v1/jobs/{job_id}").status_code == 410
        assert client.get(f"/v1/images/{job_id}-0").status_code == 410, "its URL never serves other bytes"
        assert {answer.status_code for answer in answers} <= {202, 410}, "410: it found the job that then went"
        new = {answer.json()["id"] for answer in answers if answer.status_code == 202} - {job_id}
        assert len(new) <= 1
        assert not new & seen, "no id comes back"
        job_id = new.pop() if new else post(client).json()["id"]
        assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
        assert post(client).json()["id"] == job_id
        assert store.head(upload_of(redis, job_id))["size"] > 0
        redis.delete("rq:queue:latentd.upscaler.interactive")  # nobody works here
        seen.add(job_id)
    assert uploads(store) == [upload_of(redis, job_id)], "losers leave nothing"


def test_a_purge_frees_the_key_of_its_job_alone(client: httpx2.Client, redis: Redis) -> None:
    first = post(client).json()["id"]
    assert redis.get(HELD) == first.encode()
    assert int(redis.ttl(HELD)) == -1, "it lasts as long as the job"
    client.delete(f"/v1/jobs/{first}")
    assert int(redis.ttl(HELD)) == int(redis.ttl(job_key(first))) > 0
    redis.set(HELD, "another")  # as if the key had expired a moment before the job
    assert client.delete(f"/v1/jobs/{first}?purge=true").status_code == 204
    assert redis.get(HELD) == b"another"
    assert (redis.exists(gone_key(first)), redis.exists(job_key(first))) == (1, 0)


def test_the_end_of_a_jobs_life_frees_its_key(client: httpx2.Client, redis: Redis) -> None:
    first = post(client).json()["id"]
    redis.delete(job_key(first), events_key(first))  # as if the time had passed
    second = post(client, shade=200)
    assert second.status_code == 202, "of another body, which a living job would refuse"
    assert second.json()["id"] != first


def test_the_uploads_of_a_refused_request_go_at_once(client: httpx2.Client, redis: Redis, store: Store) -> None:
    job_id = post(client).json()["id"]
    before = uploads(store)
    assert upload_of(redis, job_id) in before
    with ThreadPoolExecutor(8) as threads:
        assert {answer.status_code for answer in threads.map(lambda shade: post(client, shade), range(1, 9))} == {409}
    assert uploads(store) == before
