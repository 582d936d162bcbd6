"""Server-sent events: order, replay from Last-Event-ID, live previews, 204 behind the end, quick stops."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.events import Preview, Previews
from contract.redis_keys import events_key, job_key, preview_key
from core.storage import open_store
from service.app import create_app
from tests.gateway import finish, png, running, settings_for
from tests.starved import allowance
from tests.waits import wait_for

LONG_S = 60  # what would end by itself only then has been told


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    """Waits as long as that."""
    return {"max_wait_s": LONG_S}


@pytest.fixture
def job_id(client: httpx2.Client) -> str:
    return str(client.post("/v1/txt2img", json={"prompt": "x", "preview_every": 1}).json()["id"])


Event = tuple[str, str, dict[str, Any]]


def read(client: httpx2.Client, job_id: str, after: str | None = None) -> Iterator[Event]:
    headers = {"Last-Event-ID": after} if after else {}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}


def blocked(redis: Redis) -> int:
    """How many streams wait for events to come."""
    return int(redis.info("clients")["blocked_clients"])


def replayed(redis: Redis) -> None:
    """Wait until a stream has sent what was there."""
    wait_for(lambda: blocked(redis) > 0, 60, "live events")


def add(redis: Redis, job_id: str, kind: str, **data: object) -> str:
    event_id = redis.xadd(events_key(job_id), {"type": kind, "data": json.dumps(data)})
    assert isinstance(event_id, bytes)
    return event_id.decode()


def add_step(redis: Redis, job_id: str, step: int, preview: str | None = None) -> str:
    if preview is not None:
        redis.set(preview_key(job_id), Previews(newest={0: Preview(step=step, image=preview)}).to_json(), ex=300)
    return add(redis, job_id, "step", step=step, steps=20)


def test_events_arrive_live_with_previews_and_close(
    client: httpx2.Client, redis: Redis, job_id: str, folder: Path
) -> None:
    stream = read(client, job_id)
    assert next(stream)[1] == "queued"
    replayed(redis)
    add(redis, job_id, "started")
    assert next(stream)[1] == "started"
    add_step(redis, job_id, 1)
    assert next(stream)[2] == {"step": 1, "steps": 20}
    add_step(redis, job_id, 2, "UklGRg==")
    live = next(stream)[2]
    assert live == {"step": 2, "steps": 20, "preview": "UklGRg==", "preview_step": 2}
    add_step(redis, job_id, 3)
    assert "preview" not in next(stream)[2], "each preview is sent once"
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png())
    assert next(stream)[1] == "succeeded"
    assert list(stream) == []


def test_each_picture_s_preview_is_sent_once_and_the_first_one_s_where_it_always_was(
    client: httpx2.Client, redis: Redis
) -> None:
    job_id = str(client.post("/v1/txt2img", json={"prompt": "x", "preview_every": 1, "num_images": 4}).json()["id"])
    stream = read(client, job_id)
    assert next(stream)[1] == "queued"
    replayed(redis)

    def told(step: int, newest: dict[int, tuple[int, str]]) -> dict[str, Any]:
        previews = {index: Preview(step=at, image=image) for index, (at, image) in newest.items()}
        redis.set(preview_key(job_id), Previews(newest=previews).to_json())
        add(redis, job_id, "step", step=step, steps=80)
        return next(stream)[2]

    first = told(4, {0: (4, "a"), 1: (4, "b")})
    assert (first["preview"], first["preview_step"]) == ("a", 4)
    assert first["previews"] == [{"index": 0, "step": 4, "image": "a"}, {"index": 1, "step": 4, "image": "b"}]
    second = told(6, {0: (4, "a"), 1: (4, "b"), 3: (6, "d")})
    assert second == {"step": 6, "steps": 80, "previews": [{"index": 3, "step": 6, "image": "d"}]}
    assert told(7, {0: (4, "a"), 1: (4, "b"), 3: (6, "d")}) == {"step": 7, "steps": 80}
    client.delete(f"/v1/jobs/{job_id}")
    assert [kind for _, kind, _ in stream] == ["canceled"]


def test_an_event_is_one_line_for_clients_that_end_lines_at_more_signs(
    client: httpx2.Client, redis: Redis, job_id: str
) -> None:
    """As httpx does, and str.splitlines."""
    told = {"error": {"detail": "a\u2028b\u2029c\x85d é"}}
    redis.xadd(events_key(job_id), {"type": "failed", "data": json.dumps(told, ensure_ascii=False)})
    assert [data for _, kind, data in read(client, job_id) if kind == "failed"] == [told]


def test_replay_goes_on_after_the_last_event_seen(
    client: httpx2.Client, redis: Redis, job_id: str, folder: Path
) -> None:
    ids = [add_step(redis, job_id, step, "UklGRg==") for step in range(1, 8)]
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png())
    whole = list(read(client, job_id))
    assert [kind for _, kind, _ in whole] == ["queued", *["step"] * 7, "succeeded"]
    assert [event_id for event_id, _, _ in whole][1:-1] == ids
    assert all("preview" not in data for _, _, data in whole), "replays carry no previews"
    assert list(read(client, job_id, ids[4])) == whole[6:]
    headers = {"Last-Event-ID": whole[-1][0]}
    over = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert (over.status_code, over.content) == (204, b"")


@pytest.mark.parametrize("value", ["x", "1", "1-x", "99999999999999999999-0", "-1-0"])
def test_a_foreign_event_id_is_refused(client: httpx2.Client, job_id: str, value: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": value})
    assert (answer.status_code, answer.json()["field"]) == (422, "Last-Event-ID")


def test_the_end_is_passed_on_at_once_to_streams_and_waits(
    client: httpx2.Client, redis: Redis, job_id: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However close steps follow each other, and whether or not anything was gathered."""
    monkeypatch.setattr("service.jobs.events.SLICE_S", LONG_S)  # the look that would find it, too
    key = {"Idempotency-Key": "the-end"}
    waited = client.post("/v1/txt2img", json={"prompt": "x"}, headers=key).json()["id"]
    stream = read(client, job_id)
    assert next(stream)[1] == "queued"
    with ThreadPoolExecutor(1) as pool:
        headers = key | {"Prefer": f"wait={LONG_S}"}
        waiting = pool.submit(client.post, "/v1/txt2img", json={"prompt": "x"}, headers=headers, timeout=2 * LONG_S)
        time.sleep(0.2)
        add_step(redis, job_id, 1)
        assert next(stream)[2] == {"step": 1, "steps": 20}
        began = time.monotonic()
        for each in (job_id, waited):
            finish(redis, open_store(str(folder / "data" / "objects")), each, png())
        assert [kind for _, kind, _ in stream] == ["succeeded"]
        assert waiting.result().json()["status"] == "succeeded"
        assert time.monotonic() - began < LONG_S / 2, "not by the look"


def test_an_end_that_nobody_told_of_is_found(client: httpx2.Client, redis: Redis) -> None:
    headers = {"Prefer": f"wait={LONG_S}", "Idempotency-Key": "untold"}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/txt2img", json={"prompt": "x"}, headers=headers, timeout=2 * LONG_S)
        wait_for(lambda: bool(redis.keys(job_key("*"))), 60, "submission")
        time.sleep(0.2)
        (key,) = redis.keys(job_key("*"))
        redis.hset(key, "status", "canceled")
        began = time.monotonic()
        assert waiting.result().json()["status"] == "canceled"
        assert time.monotonic() - began < LONG_S / 2, "by the look, each SLICE_S, and not by the end of the wait"


def test_a_canceled_job_closes_its_stream(client: httpx2.Client, job_id: str) -> None:
    stream = read(client, job_id)
    assert next(stream)[1] == "queued"
    client.delete(f"/v1/jobs/{job_id}")
    assert [kind for _, kind, _ in stream] == ["canceled"]


def test_cancel_of_a_running_job_asks_its_worker(client: httpx2.Client, redis: Redis, job_id: str) -> None:
    redis.hset(job_key(job_id), mapping={"status": "running", "started_at": "2026-01-01T00:00:00+00:00", "step": "4"})
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert answer.json()["progress"] == {"step": 4, "steps": 20}
    assert answer.json()["eta_s"] > 0
    assert redis.smembers("latentd:canceling") == {job_id.encode()}
    assert redis.hget(job_key(job_id), "cancel") == b"1"


def test_a_purged_job_ends_its_stream(client: httpx2.Client, redis: Redis, job_id: str) -> None:
    stream = read(client, job_id)
    next(stream)
    redis.delete(job_key(job_id), events_key(job_id))
    assert list(stream) == []


def test_many_streams_of_one_job(client: httpx2.Client, redis: Redis, job_id: str) -> None:
    seen: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: seen.append([kind for _, kind, _ in read(client, job_id)])) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for step in range(5):
        add_step(redis, job_id, step)
    client.delete(f"/v1/jobs/{job_id}")
    for thread in threads:
        thread.join(10)
    assert seen == [["queued", *["step"] * 5, "canceled"]] * 20


def test_event_streams_have_a_bound(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """The next is told when to come back; the place of one that ended, or whose client left, is free."""
    assert redis.dbsize() == 0
    with running(settings_for(redis_url, tmp_path, event_streams=2)) as client:
        job_id = client.post("/v1/txt2img", json={}).json()["id"]
        streams = [read(client, job_id) for _ in range(2)]
        for stream in streams:
            next(stream)
        refused = client.get(f"/v1/jobs/{job_id}/events")
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        assert refused.json()["type"] == "urn:latentd:problem:too-many-streams"
        assert int(refused.headers["retry-after"]) > 0
        assert client.get(f"/v1/jobs/{job_id}").status_code == 200
        streams[0].close()  # type: ignore[attr-defined]
        ends = time.monotonic() + 60
        third = _opened(client, job_id, ends)
        client.delete(f"/v1/jobs/{job_id}")
        assert [kind for _, kind, _ in third] == ["canceled"]
        assert [kind for _, kind, _ in streams[1]] == ["canceled"]
        again = _opened(client, job_id, time.monotonic() + 60)
        assert [kind for _, kind, _ in again] == ["canceled"]


def _opened(client: httpx2.Client, job_id: str, ends: float) -> Iterator[Event]:
    """A stream behind its first event, tried until there is a place."""
    while True:
        stream = read(client, job_id)
        try:
            next(stream)
            return stream
        except AssertionError:
            assert time.monotonic() < ends
            time.sleep(0.05)


def test_a_client_that_leaves_takes_its_wait_along(client: httpx2.Client, redis: Redis, job_id: str) -> None:
    stream = read(client, job_id)
    next(stream)
    wait = httpx2.Client(base_url=client.base_url, timeout=0.3, trust_env=False)
    with wait, pytest.raises(httpx2.ReadTimeout):
        wait.post("/v1/txt2img", json={}, headers={"Prefer": f"wait={LONG_S}"})
    stream.close()  # type: ignore[attr-defined]
    ends = time.monotonic() + LONG_S / 2  # not by the end of the wait
    while blocked(redis):
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_stop_closes_streams_soon(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    assert redis.dbsize() == 0
    settings = settings_for(redis_url, tmp_path)
    app = create_app(settings)
    with running(settings, app) as client:
        stream = read(client, client.post("/v1/txt2img", json={}).json()["id"])
        next(stream)
        allowed, began = allowance(os.getpid()), time.monotonic()
        app.state.gateway.stopping.set()  # as the server's signal handler does
        assert list(stream) == []
        assert time.monotonic() - began - allowed() < 2
