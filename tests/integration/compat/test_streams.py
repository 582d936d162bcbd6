"""OpenAI's event streams at a gateway without a worker: partial images, and what is said while a job waits."""

from __future__ import annotations

import base64
import gc
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import httpx2
import pytest
from PIL import Image
from redis import Redis

from contract.events import Preview, Previews
from contract.redis_keys import JOBS_KEY, events_key, job_key, preview_key
from core.storage import open_store
from service.auth import keys
from service.compat.openai import streams
from tests.compat import job_made, listed, webp
from tests.gateway import finish, png, running, settings_for
from tests.waits import within

GENERATIONS = "/v1/images/generations"


def test_partial_images_are_the_first_picture_s(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    body = {"prompt": "x", "n": 2, "stream": True, "partial_images": 3, "output_format": "png"}
    told: Queue[dict[str, Any]] = Queue()

    def listen() -> None:
        with client.stream("POST", GENERATIONS, json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    told.put(json.loads(line.removeprefix("data: ")))

    partial = []
    with ThreadPoolExecutor(1) as threads:
        listening = threads.submit(listen)
        job_id = job_made(redis)
        for step, first in ((4, 4), (6, 4), (8, 8)):
            newest = {0: Preview(step=first, image=webp("red")), 1: Preview(step=step, image=webp("blue"))}
            redis.set(preview_key(job_id), Previews(newest=newest).to_json())
            redis.xadd(events_key(job_id), {"type": "step", "data": json.dumps({"step": step, "steps": 40})})
            if first == step:
                partial.append(told.get(timeout=60))
            else:
                time.sleep(0.3)  # live events are gathered for less; none of this one is sent
        finish(redis, open_store(str(folder / "data" / "objects")), job_id, png())
        listening.result()
    assert [event["type"] for event in partial] == ["image_generation.partial_image"] * 2
    assert [event["partial_image_index"] for event in partial] == [0, 1]
    shown = [Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))) for event in partial]
    assert [(each.format, each.getpixel((5, 5))) for each in shown] == [("PNG", (255, 0, 0))] * 2
    assert {event["type"] for event in told.queue} == {"image_generation.completed"}


@pytest.mark.parametrize("partial_images", [0, 1])
def test_a_stream_whose_job_waits_is_never_silent(
    client: httpx2.Client, redis: Redis, folder: Path, monkeypatch: pytest.MonkeyPatch, partial_images: int
) -> None:
    monkeypatch.setattr(streams, "COMMENT_S", 0.1)
    body = {"prompt": "x", "stream": True, "partial_images": partial_images}
    with client.stream("POST", GENERATIONS, json=body) as answer:
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(5)][::2] == [": accepted", ": still here", ": still here"]
        finish(redis, open_store(str(folder / "data" / "objects")), job_made(redis), png())
        assert [line for line in lines if line.startswith("event: ")] == ["event: image_generation.completed"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_revoked_key_loses_its_stream_and_its_pictures(
    client: httpx2.Client, redis: Redis, folder: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """Whether the job has just ended or still waits; that is canceled."""
    monkeypatch.setattr(streams, "CHECK_S", 60.0 if ended else 0.1)
    key, token = keys.create(redis, "phone", ["generate", "read"])
    headers = {"Authorization": f"Bearer {token}"}
    with client.stream("POST", GENERATIONS, json={"prompt": "x", "stream": True}, headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": accepted"
        keys.revoke(redis, key.id)
        job_id = job_made(redis, key.id)
        if ended:
            finish(redis, open_store(str(folder / "data" / "objects")), job_id, png())
        assert [line for line in lines if line] == []
    assert within(lambda: redis.hget(job_key(job_id), "status") in (b"canceled", b"succeeded"))


def test_who_leaves_a_stream_at_once_is_no_error(
    client: httpx2.Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for partial_images in (0, 1, 0, 1, 0, 1, 0, 1):
        body = {"prompt": "x", "stream": True, "partial_images": partial_images}
        with client.stream("POST", GENERATIONS, json=body) as answer:
            next(answer.iter_bytes())
    jobs = listed(redis, JOBS_KEY)
    assert len(jobs) == 8
    assert within(lambda: {redis.hget(job_key(job_id), "status") for job_id in jobs} == {b"canceled"})
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_a_fault_of_the_storage_is_a_stream_s_last_event(
    client: httpx2.Client, redis: Redis, folder: Path, tmp_path: Path
) -> None:
    with client.stream("POST", GENERATIONS, json={"prompt": "x", "stream": True}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": accepted"
        images = folder / "data" / "objects" / "images"
        images.mkdir(parents=True, exist_ok=True)
        (images / job_made(redis)).write_bytes(b"no folder, so that nothing in it can be opened")
        finish(redis, open_store(str(tmp_path)), job_made(redis), png())
        assert _failure(lines) == ("server_error", "unavailable", "the object storage doesn't answer: GenericError")


def test_a_fault_of_redis_is_a_stream_s_last_event(client: httpx2.Client, redis: Redis) -> None:
    body = {"prompt": "x", "stream": True, "partial_images": 1}
    with client.stream("POST", GENERATIONS, json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": accepted"
        redis.set(events_key(job_made(redis)), "no stream")
        kind, code, message = _failure(lines)
        assert (kind, code, message.partition(";")[0]) == ("server_error", "internal", "an unexpected error")


def _failure(lines: Iterator[str]) -> tuple[str, str, str]:
    """Type, code and message of the error with which a stream ends."""
    event, data = [line for line in lines if line][-2:]
    assert event == "event: error"
    error = json.loads(data.removeprefix("data: "))["error"]
    return error["type"], error["code"], error["message"]


def test_a_stream_that_is_one_too_many_makes_no_job(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    body = {"prompt": "x", "stream": True}
    with running(settings_for(redis_url, tmp_path, event_streams=1, compat_wait_s=5.0)) as client:
        with client.stream("POST", GENERATIONS, json=body) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": accepted"
            refused = client.post(GENERATIONS, json=body)
        assert refused.status_code == 429
        assert "LATENTD_EVENT_STREAMS=1" in refused.text
        assert len(listed(redis, JOBS_KEY)) == 1


def test_partial_images_of_an_edit_are_of_the_steps_that_its_strength_leaves(
    client: httpx2.Client, redis: Redis, folder: Path
) -> None:
    clear = png((64, 64), mode="RGBA", colour=(0, 0, 0, 0))  # all of it is repainted
    files = {"image": ("a.png", png((64, 64)), "image/png"), "mask": ("m.png", clear, "image/png")}
    fields = {"prompt": "x", "stream": "true", "partial_images": "2", "steps": "20", "strength": "0.5"}
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, "/v1/images/edits", data=fields, files=files)
        job_id = job_made(redis)
        finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
        assert waiting.result().status_code == 200
    request = client.get(f"/v1/jobs/{job_id}").json()["request"]
    assert (request["steps"], request["strength"], request["preview_every"]) == (20, 0.5, 3), "two within ten steps"
