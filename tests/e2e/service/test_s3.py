"""The whole service with its pictures on S3: made, repainted, fetched by stream and by presigned URL, purged."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import obstore
import pytest
from obstore.store import S3Store
from PIL import Image
from redis import Redis

from contract.job import ImageInfo, StoredImage
from contract.redis_keys import job_key, stored_field
from core.errors import ConfigurationError
from core.settings import read_settings
from core.storage import DEPLOYMENT_OBJECT, delete, image_path, open_public, open_store
from jobs.deployment import belong_together
from tests.gateway import finish, mask, png, running, settings_for
from tests.s3 import S3Server
from tests.service import Service
from tests.tiny import write_tiny_inpaint


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def service(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models = tmp_path_factory.mktemp("models")
    write_tiny_inpaint(models / "tiny")
    # Clients reach the endpoint by another name than the service does.
    public = s3.url.replace("127.0.0.1", "localhost")
    env = {"LATENTD_MODELS_DIR": str(models), "LATENTD_MODEL": "tiny", "LATENTD_STORAGE_PUBLIC_URL": public}
    with Service(s3.env | env) as started:
        yield started


def objects(s3: S3Server) -> list[str]:
    store = open_store(s3.env["LATENTD_STORAGE_URL"])
    return sorted(entry["path"] for page in store.list() for entry in page)


def test_images_are_fetched_from_the_storage(service: Service) -> None:
    job = service.post("/v1/txt2img", prompt="red heart")
    answer = service.client.get(job["images"][0]["url"])
    assert answer.status_code == 307
    assert answer.headers["location"].startswith("http://localhost:")
    fetched = httpx2.get(answer.headers["location"], timeout=60, trust_env=False)
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/png")
    assert Image.open(io.BytesIO(fetched.content)).size == (64, 64)
    streamed = service.client.get(job["images"][0]["url"] + "?download")
    assert (streamed.status_code, streamed.content) == (200, fetched.content)
    assert "http://localhost:" in answer.headers["content-security-policy"]


def test_waiting_clients_get_bytes_and_a_purge_leaves_nothing(service: Service, s3: S3Server) -> None:
    before = objects(s3)
    files = {"image": ("a.png", png((40, 30)), "image/png"), "mask": ("m.png", mask((40, 30)), "image/png")}
    headers = {"Prefer": "wait=60", "Accept": "image/png"}
    answer = service.client.post("/v1/inpaint", files=files, data={"prompt": "red heart"}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert Image.open(io.BytesIO(answer.content)).size == (40, 30)
    job = service.client.get("/v1/jobs").json()["items"][0]
    made = [path for path in objects(s3) if path not in before]
    assert [path.split("/")[0] for path in made] == ["images", "uploads", "uploads"]
    assert service.client.delete(f"/v1/jobs/{job['id']}?purge=true").status_code == 204
    assert objects(s3) == before


def test_public_urls_need_s3(s3: S3Server) -> None:
    for url, public in (("/data", "https://s3.example.org"), (s3.env["LATENTD_STORAGE_URL"], "s3.example.org")):
        with pytest.raises(ConfigurationError, match=r"LATENTD_STORAGE_PUBLIC_URL"):
            open_public(url, public)
    assert isinstance(open_public(s3.env["LATENTD_STORAGE_URL"], "https://s3.example.org/"), S3Store)


def test_redirects_are_kept_once_the_job_has_ended(s3: S3Server, redis: Redis, redis_url: str, tmp_path: Path) -> None:
    url, public = s3.env["LATENTD_STORAGE_URL"], s3.url.replace("127.0.0.1", "localhost")
    with running(settings_for(redis_url, tmp_path, storage_url=url, storage_public_url=public)) as client:
        job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
        finish(redis, open_store(url), job_id, png((64, 64)))
        assert client.get(f"/v1/images/{job_id}-0").headers["cache-control"] == "private, max-age=300"
        (image,) = client.get(f"/v1/jobs/{job_id}").json()["images"]
        early = StoredImage(execution="execution", info=ImageInfo.model_validate(image))
        redis.hdel(job_key(job_id), "result")
        redis.hset(job_key(job_id), mapping={"status": "running", stored_field(0): early.to_json()})
        answer = client.get(f"/v1/images/{job_id}-0")
        assert (answer.status_code, answer.headers["cache-control"]) == (307, "private, no-cache")


def test_the_public_endpoint_wins_over_the_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    public = open_public(s3.env["LATENTD_STORAGE_URL"], "https://s3.example.org")
    assert obstore.sign(public, "GET", "a", timedelta(seconds=60)).startswith("https://s3.example.org/")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)  # nothing that is given would win over it
    monkeypatch.setenv("LATENTD_STORAGE_PUBLIC_URL", "https://s3.example.org")
    with pytest.raises(ConfigurationError, match=r"LATENTD_STORAGE_PUBLIC_URL=.*not with AWS_ENDPOINT_URL_S3"):
        read_settings()


@pytest.mark.usefixtures("s3")
def test_a_pair_is_made_once_and_missing_objects_are_let_pass(redis: Redis) -> None:
    store = open_store("s3://pictures/pair")
    assert belong_together(redis, store)
    assert belong_together(redis, store)
    store.put(image_path("a", "e", 0, "png"), b"1")
    delete(store, [image_path("a", "e", 1, "png"), image_path("a", "e", 0, "png")])
    assert [entry["path"] for page in store.list() for entry in page] == [DEPLOYMENT_OBJECT]
    redis.flushall()
    assert not belong_together(redis, store)
