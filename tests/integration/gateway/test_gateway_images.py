"""Pictures over HTTP: uploads under one key, images before and after their job's end, purges."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from redis import Redis

from contract.job import JobResult, StoredImage
from contract.redis_keys import job_key, stored_field
from core.pictures import lossless
from core.storage import image_path, open_store
from service.jobs.images import CHUNK
from tests.gateway import finish, png, same_pixels, upload_of


def test_purges_at_the_same_time_all_succeed(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    store = open_store(str(folder / "data" / "objects"))
    for _ in range(5):
        job_id = client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")}).json()["id"]
        finish(redis, store, job_id, png((64, 64)))
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: client.delete(f"/v1/jobs/{job_id}?purge=true"), range(4)))  # noqa: B023
        assert {answer.status_code for answer in answers} <= {204, 410}


def test_requests_of_one_key_do_not_overwrite_each_other_s_uploads(
    client: httpx2.Client, redis: Redis, folder: Path
) -> None:
    shades = [png(colour=(shade, 0, 0)) for shade in range(8)]

    def post(shade: int) -> httpx2.Response:
        files = {"image": ("a.png", shades[shade], "image/png")}
        return client.post("/v1/upscale", files=files, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(post, range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + 7 * [409]
    job = next(answer.json() for answer in answers if answer.status_code == 202)
    image = job["request"]["image"]
    stored = (folder / "data" / "objects" / upload_of(redis, job["id"]).path).read_bytes()
    [sent] = [shade for shade in shades if hashlib.sha256(shade).hexdigest() == image["sha256"]]
    assert same_pixels(stored, sent)
    finish(redis, open_store(str(folder / "data" / "objects")), job["id"], png((64, 64)))
    assert client.delete(f"/v1/jobs/{job['id']}?purge=true").status_code == 204
    assert list((folder / "data" / "objects" / "uploads" / job["id"]).glob("*")) == []


def test_images_are_cached_for_ever_and_downloadable(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
    assert client.get(f"/v1/images/{job_id}-0").status_code == 404
    data = png((64, 64))
    store = open_store(str(folder / "data" / "objects"))
    finish(redis, store, job_id, data)
    job = client.get(f"/v1/jobs/{job_id}").json()
    (image,) = job["images"]
    answer = client.get(image["url"])
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["etag"] == f'"{image["sha256"]}"'
    again = client.get(image["url"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "attachment" in client.get(image["url"] + "?download").headers["content-disposition"]
    assert client.get(f"/v1/images/{job_id}-1").status_code == 404
    store.delete(image_path(job_id, "execution", 0, "png"))
    assert client.get(image["url"]).status_code == 410


def test_an_image_may_change_until_its_job_has_ended(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    job_id, data = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"], png((64, 64))
    store = open_store(str(folder / "data" / "objects"))
    finish(redis, store, job_id, data)
    info = JobResult.model_validate_json(redis.hget(job_key(job_id), "result") or "").images[0]
    result = redis.hget(job_key(job_id), "result")
    early = StoredImage(execution="execution", info=info).to_json()
    redis.hdel(job_key(job_id), "result")
    redis.hset(job_key(job_id), mapping={"status": "running", stored_field(0): early})
    answer = client.get(info.url)
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["cache-control"] == "private, no-cache"
    again = client.get(info.url, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.headers["cache-control"]) == (304, "private, no-cache")
    redis.hset(job_key(job_id), mapping={"status": "succeeded", "result": result or b""})
    assert "immutable" in client.get(info.url).headers["cache-control"]


@pytest.mark.parametrize("index", ["\u0660", "00", "0x", "-0", "+0", "100", ""])
def test_an_image_has_one_id(client: httpx2.Client, redis: Redis, folder: Path, index: str) -> None:
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
    assert client.get(f"/v1/images/{job_id}-{index}?download").status_code == 404


def _damaged(client: httpx2.Client, redis: Redis, folder: Path, side: int, **changes: bytes) -> tuple[str, bytes]:
    """The address of an image whose stored file was changed; what it should be."""
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
    data = lossless(Image.effect_noise((side, side), 200))
    store = open_store(str(folder / "data" / "objects"))
    finish(redis, store, job_id, data)
    store.put(image_path(job_id, "execution", 0, "png"), changes.get("stored", data[:-9] + b"?" + data[-8:]))
    return f"/v1/images/{job_id}-0", data


@pytest.mark.parametrize("stored", [b"", b"short", b"x" * 300_000])
def test_an_object_of_another_length_is_never_served(
    client: httpx2.Client, redis: Redis, folder: Path, stored: bytes
) -> None:
    url, _ = _damaged(client, redis, folder, 64, stored=stored)
    answer = client.get(url)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:latentd:problem:damaged-image")
    assert "etag" not in answer.headers
    assert "immutable" not in answer.headers["cache-control"]


def test_a_small_object_with_one_wrong_byte_is_never_served(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    url, data = _damaged(client, redis, folder, 64)
    assert len(data) < CHUNK
    answer = client.get(url)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:latentd:problem:damaged-image")
    assert "etag" not in answer.headers


def test_a_large_object_with_one_wrong_byte_is_never_whole(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    """It is checked while it is streamed: the answer breaks off before its end."""
    url, data = _damaged(client, redis, folder, 1500)
    assert len(data) > 4 * CHUNK
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        client.get(url, timeout=60)


def test_a_replay_is_answered_in_the_format_that_the_job_has(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    """The formats that a later request accepts decide whether it can be answered, not what is drawn."""
    job_id = client.post("/v1/txt2img?", json={}, headers={"Idempotency-Key": "k", "Prefer": "wait=0"}).json()["id"]
    data = png((64, 64))
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, data)
    for accept in ("image/png", "image/*", "image/webp, image/png;q=0.5", "image/webp, image/*;q=0.1"):
        answer = client.post("/v1/txt2img", json={}, headers={"Idempotency-Key": "k", "Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), accept
        assert answer.content == data
        assert answer.headers["idempotency-replayed"] == "true"
    refused = client.post("/v1/txt2img", json={}, headers={"Idempotency-Key": "k", "Accept": "image/webp, image/jpeg"})
    assert (refused.status_code, refused.json()["field"]) == (422, "output_format")
    assert refused.json()["bound"] == ["jpeg", "webp"]
