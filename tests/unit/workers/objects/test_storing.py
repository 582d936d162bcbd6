from __future__ import annotations

import hashlib
import io
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from redis import Redis
from structlog.testing import capture_logs

from contract.redis_keys import DEPLOYMENT_KEY
from contract.uploads import Upload
from core.errors import JobFailed
from core.storage import DEPLOYMENT_OBJECT, image_path, open_store
from jobs.deployment import Mount
from jobs.run import JobRun
from tests.enqueue import enqueue, make_request
from tests.gateway import mask, png
from tests.s3 import S3Server
from tests.unit.workers.parts import claim, make_worker
from workers.claim_policy import STORING_THREADS
from workers.objects.storing import ImageStored, InputsLoaded, StorageRefused, Storing
from workers.queue.savepoints import Savepoints

PICTURE = Image.new("RGB", (64, 64), "red")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def storing(redis: Redis, folder: Path) -> Iterator[Storing]:
    store, hashes = open_store(str(folder)), {"tiny": "hash"}
    savepoints = Savepoints(redis, store, hashes)
    made = Storing(store, hashes, savepoints)
    yield made
    made.close()
    savepoints.close()


def claimed_run(redis: Redis, **fields: Any) -> JobRun:
    enqueue(redis, "a", make_request(**fields))
    return claim(make_worker(redis))


def break_storage(folder: Path) -> None:
    """A file where the folder was: every call fails, until it is mended."""
    shutil.rmtree(folder)
    folder.write_text("")


def mend_storage(folder: Path) -> None:
    folder.unlink()
    folder.mkdir()


def test_a_bucket_that_is_not_there_is_waited_for(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    away, bucket = threading.Event(), f"later-{uuid.uuid4().hex}"  # all servers of a process know the same buckets
    with S3Server() as s3:
        for name, value in s3.env.items():
            monkeypatch.setenv(name, value)
        store = open_store(f"s3://{bucket}")
        savepoints = Savepoints(redis, store, {"tiny": "hash"})
        storing = Storing(store, {"tiny": "hash"}, savepoints, away.set)
        storing.save(claimed_run(redis), 0, PICTURE)
        assert away.wait(60)
        httpx2.put(f"{s3.url}/{bucket}").raise_for_status()
        (stored,) = storing.reports(60)
        storing.close()
        savepoints.close()
    assert isinstance(stored, ImageStored)


def test_an_image_is_stored_with_its_facts(redis: Redis, storing: Storing, folder: Path) -> None:
    run = claimed_run(redis, num_images=2)
    storing.save(run, 1, PICTURE)
    (stored,) = storing.reports(5)
    assert isinstance(stored, ImageStored)
    data = (folder / stored.path).read_bytes()
    assert stored.path == image_path("a", run.execution.id, 1, "png")
    info = stored.info
    assert (info.id, info.url, info.seed) == ("a-1", "/v1/images/a-1", 8)
    assert (info.bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert "red heart" in Image.open(io.BytesIO(data)).text["parameters"]  # type: ignore[attr-defined]


def test_uploads_are_read_and_decoded(redis: Redis, storing: Storing, folder: Path) -> None:
    """Here, not between two calls of the engine."""
    (folder / "uploads").mkdir(parents=True)
    (folder / "uploads" / "i").write_bytes(png((4, 2)))
    (folder / "uploads" / "m").write_bytes(mask((8, 4)))
    image, hole = (Upload(path=f"uploads/{name}", sha256="0", bytes=7, width=4, height=2) for name in ("i", "m"))
    storing.load(claimed_run(redis, kind="inpaint", image=image, mask=hole))
    (loaded,) = storing.reports(5)
    assert isinstance(loaded, InputsLoaded)
    assert loaded.pictures["image"] == Image.new("RGB", (4, 2), (200, 30, 30))
    assert (loaded.pictures["mask"].mode, loaded.pictures["mask"].size) == ("L", (4, 2))


def test_an_upload_of_the_release_before_is_read_as_it_came(redis: Redis, storing: Storing, folder: Path) -> None:
    (folder / "uploads").mkdir(parents=True)
    Image.new("L", (4, 2), 9).save(folder / "uploads" / "i", "JPEG", exif=b"Exif\0\0broken")
    upload = Upload(path="uploads/i", sha256="0", bytes=7, width=4, height=2)
    storing.load(claimed_run(redis, kind="img2img", image=upload))
    (loaded,) = storing.reports(5)
    assert isinstance(loaded, InputsLoaded)
    assert loaded.pictures["image"].tobytes() == Image.new("RGB", (4, 2), (9, 9, 9)).tobytes()


def test_an_upload_that_is_damaged_is_told(redis: Redis, storing: Storing, folder: Path) -> None:
    (folder / "uploads").mkdir(parents=True)
    (folder / "uploads" / "i").write_bytes(png()[:40])
    upload = Upload(path="uploads/i", sha256="0", bytes=7, width=16, height=16)
    storing.load(claimed_run(redis, kind="img2img", image=upload))
    (report,) = storing.reports(5)
    assert isinstance(report, StorageRefused)
    assert report.error.field == "image"


def test_a_missing_upload_is_told(redis: Redis, storing: Storing, folder: Path) -> None:
    (folder / "uploads").mkdir(parents=True)
    (folder / "uploads" / "i").write_bytes(b"picture")
    image, gone = (Upload(path=f"uploads/{name}", sha256="0", bytes=7, width=1, height=1) for name in ("i", "gone"))
    storing.load(claimed_run(redis, kind="inpaint", image=image, mask=gone))
    (report,) = storing.reports(5)
    assert isinstance(report, StorageRefused)
    assert isinstance(report.error, JobFailed)
    assert report.error.field == "mask"


def test_storage_that_is_away_is_tried_until_it_is_back(redis: Redis, storing: Storing, folder: Path) -> None:
    break_storage(folder)
    with capture_logs() as logs:
        storing.save(claimed_run(redis), 0, PICTURE)
        assert storing.reports(0.3) == []
    mend_storage(folder)
    assert "os error" in next(line["error"] for line in logs if line["event"] == "storage is away")
    (stored,) = storing.reports(5)
    assert isinstance(stored, ImageStored)
    assert (folder / stored.path).is_file()
    assert stored.try_s <= stored.seconds - 0.25, "the last try alone"


def test_an_ended_job_is_given_up(redis: Redis, storing: Storing, folder: Path) -> None:
    break_storage(folder)
    run = claimed_run(redis)
    storing.save(run, 0, PICTURE)
    time.sleep(0.05)
    run.closed = True
    storing.close()
    assert storing.reports() == []
    mend_storage(folder)


def test_closing_does_not_wait_for_storage(redis: Redis, storing: Storing, folder: Path) -> None:
    break_storage(folder)
    storing.save(claimed_run(redis), 0, PICTURE)
    closer = threading.Thread(target=storing.close)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()
    mend_storage(folder)


def test_discarded_objects_go_and_missing_ones_are_let_pass(redis: Redis, storing: Storing, folder: Path) -> None:
    storing.save(claimed_run(redis), 0, PICTURE)
    (stored,) = storing.reports(5)
    assert isinstance(stored, ImageStored)
    storing.discard([stored.path, "images/never"])
    storing.close()
    assert not (folder / stored.path).exists()


def test_a_put_whose_answer_was_lost_counts(redis: Redis, storing: Storing) -> None:
    run = claimed_run(redis)
    for _ in range(2):
        storing.save(run, 0, PICTURE)
        assert isinstance(storing.reports(5)[0], ImageStored)


def test_a_mount_point_without_its_mount_takes_and_loses_nothing(redis: Redis, tmp_path: Path) -> None:
    """Neither is a picture written below it, nor an upload taken for gone."""
    folder, hidden, away = tmp_path / "objects", tmp_path / "hidden", threading.Event()
    clock = iter(range(0, 10_000, 100))  # of which each step is longer than what can't be read has
    store = open_store(str(folder))
    store.put(DEPLOYMENT_OBJECT, b"id")
    redis.set(DEPLOYMENT_KEY, "id")
    store.put("uploads/i", png((4, 2)))
    savepoints = Savepoints(redis, store, {"tiny": "hash"})
    check = Mount(store, redis).check
    storing = Storing(store, {"tiny": "hash"}, savepoints, away.set, check, lambda: float(next(clock)))
    folder.rename(hidden)
    folder.mkdir()
    upload = Upload(path="uploads/i", sha256="0", bytes=7, width=4, height=2)
    run = claimed_run(redis, kind="img2img", image=upload)
    storing.load(run)
    for _ in range(3):
        assert away.wait(60)
        away.clear()
    storing.save(run, 0, PICTURE)
    assert away.wait(60)
    assert storing.reports() == []
    assert not list(folder.iterdir())
    folder.rmdir()
    hidden.rename(folder)
    reports = storing.reports(60)
    while len(reports) < 2:
        reports += storing.reports(60)
    assert {type(report) for report in reports} == {InputsLoaded, ImageStored}
    storing.close()
    savepoints.close()


def test_what_is_gone_from_a_mounted_storage_is_told(redis: Redis, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "objects"))
    store.put(DEPLOYMENT_OBJECT, b"id")
    redis.set(DEPLOYMENT_KEY, "id")
    savepoints = Savepoints(redis, store, {"tiny": "hash"})
    storing = Storing(store, {"tiny": "hash"}, savepoints, check_store=Mount(store, redis).check)
    gone = Upload(path="uploads/gone", sha256="0", bytes=7, width=4, height=2)
    storing.load(claimed_run(redis, kind="img2img", image=gone))
    (report,) = storing.reports(60)
    assert isinstance(report, StorageRefused)
    assert "is no longer stored" in report.error.detail
    storing.close()
    savepoints.close()


def test_what_cant_be_read_keeps_no_thread_from_others(redis: Redis, folder: Path) -> None:
    """As an archived object, or a file of another user: more of them than there are threads."""
    store, clock = open_store(str(folder)), iter(range(0, 10_000, 20))
    savepoints = Savepoints(redis, store, {"tiny": "hash"})
    storing = Storing(store, {"tiny": "hash"}, savepoints, clock=lambda: float(next(clock)))
    (folder / "uploads").mkdir(parents=True)
    (folder / "uploads" / "i").symlink_to("i")  # to itself: nobody, root included, reads it
    bad = Upload(path="uploads/i", sha256="0", bytes=7, width=4, height=2)
    run = claimed_run(redis, kind="img2img", image=bad)
    for _ in range(STORING_THREADS):
        storing.load(run)
    storing.save(run, 0, PICTURE)
    reports = storing.reports(60)
    while len(reports) < STORING_THREADS + 1:
        reports += storing.reports(60)
    told = [report.error.detail for report in reports if isinstance(report, StorageRefused)]
    assert told == ["the storage doesn't give the uploaded image out"] * STORING_THREADS
    assert sum(isinstance(report, ImageStored) for report in reports) == 1
    storing.close()
    savepoints.close()
