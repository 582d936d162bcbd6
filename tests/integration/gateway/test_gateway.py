"""The gateway over HTTP with a real Redis and no worker: jobs are accepted and wait."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from rq import Queue
from rq.job import Job as RQJob
from rq.registry import CanceledJobRegistry
from rq.serializers import JSONSerializer

from contract.base import CONTRACT_VERSION, queue_name
from contract.job import JOB_FUNCTION
from contract.redis_keys import (
    CARDS_KEY,
    JOBS_KEY,
    LAYOUT_KEY,
    WAKES,
    events_key,
    gone_key,
    job_key,
    serving_key,
    wake_key,
    work_key,
)
from core.errors import DeadlineMissed
from core.storage import open_store
from tests.gateway import PAINTER, fail, finish, mask, png, same_pixels, upload_of
from tests.times import cells, publish


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {"queue_limit": 5}


def queued(redis: Redis, model: str = "painter", lane: str = "interactive") -> list[str]:
    name = queue_name(model, "bulk" if lane == "bulk" else "interactive")
    return Queue(name, connection=redis, serializer=JSONSerializer).get_job_ids()


def test_prompt_becomes_a_queued_job(client: httpx2.Client, redis: Redis) -> None:
    answer = client.post("/v1/txt2img", json={"prompt": "red heart"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["kind"], job["position"]) == ("queued", "txt2img", 0)
    assert job["progress"] == {"step": 0, "steps": 20}
    assert job["request"]["width"] == 64
    assert job["request"]["seeds"] == [job["request"]["seed"]]
    assert client.get(answer.headers["location"]).json() == job
    assert redis.hgetall(work_key("painter", "interactive")) == {job["id"].encode(): b"txt2img 64 64 20 2 1"}

    rq_job = RQJob.fetch(job["id"], connection=redis, serializer=JSONSerializer)
    assert rq_job.args == [CONTRACT_VERSION, job["id"]]
    assert (rq_job.func_name, rq_job.description) == (JOB_FUNCTION, f"txt2img {job['id']}")
    assert (rq_job.get_status(), rq_job.retries_left, rq_job.meta) == ("queued", 1000, {})
    assert queued(redis) == [job["id"]]
    assert "latentd.painter.interactive" in [queue.name for queue in Queue.all(connection=redis)]


def test_lanes_and_positions(client: httpx2.Client, redis: Redis) -> None:
    ids = [client.post("/v1/txt2img", json={"prompt": "a", "priority": "bulk"}).json()["id"] for _ in range(3)]
    assert queued(redis, lane="bulk") == ids
    assert [client.get(f"/v1/jobs/{job_id}").json()["position"] for job_id in ids] == [0, 1, 2]


def test_inpaint_by_form_and_by_json_are_the_same_request(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    picture, hole = png((20, 12)), mask((20, 12))
    files = {"image": ("a.png", picture, "image/png"), "mask": ("m.png", hole, "image/png")}
    headers = {"Idempotency-Key": "same"}
    form = client.post("/v1/inpaint", data={"prompt": "red", "steps": "7"}, files=files, headers=headers)
    assert form.status_code == 202, form.text
    job = form.json()
    assert (job["request"]["width"], job["request"]["height"]) == (20, 12)
    assert job["request"]["mask_mode"] == "white"
    assert job["request"]["strength"] == 1.0
    stored = folder / "data" / "objects" / upload_of(redis, job["id"]).path
    assert same_pixels(stored.read_bytes(), picture)
    assert job["request"]["image"]["sha256"] == hashlib.sha256(picture).hexdigest(), "the digest of what was sent"

    body = {
        "steps": 7,
        "prompt": "red",
        "image": "data:image/png;base64," + base64.b64encode(picture).decode(),
        "mask": base64.b64encode(hole).decode(),
    }
    again = client.post("/v1/inpaint", json=body, headers=headers)
    assert again.json()["id"] == job["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert queued(redis) == [job["id"]]


def test_upscale_answers_the_scaled_size(client: httpx2.Client) -> None:
    answer = client.post("/v1/upscale", files={"image": ("a.png", png((100, 75)), "image/png")})
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    assert (request["model"], request["width"], request["height"]) == ("upscaler", 400, 300)


def test_a_key_makes_one_job_however_many_race(client: httpx2.Client, redis: Redis) -> None:
    def post(_: int) -> httpx2.Response:
        return client.post("/v1/txt2img", json={"prompt": "x"}, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len({answer.json()["request"]["seed"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    assert len(queued(redis)) == 1
    assert len(redis.xrange(events_key(answers[0].json()["id"])) or []) == 1


def test_a_key_with_another_body_conflicts(client: httpx2.Client, redis: Redis) -> None:
    headers = {"Idempotency-Key": "k"}
    assert client.post("/v1/txt2img", json={"prompt": "x"}, headers=headers).status_code == 202
    other = client.post("/v1/txt2img", json={"prompt": "y"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (409, "Idempotency-Key")
    explicit = client.post("/v1/txt2img", json={"prompt": "x", "steps": 20}, headers=headers)
    assert explicit.status_code == 409, "bodies are compared before defaults"
    upload = {"image": ("a.png", png(), "image/png")}
    assert client.post("/v1/upscale", files=upload, headers=headers).status_code == 202, "keys belong to an endpoint"
    assert len(queued(redis)) == 1


def test_a_full_lane_refuses_with_retry_after_but_replays(client: httpx2.Client, redis: Redis) -> None:
    publish(redis, "painter", cells(row_s=0.1))
    for k in range(5):
        assert client.post("/v1/txt2img", json={}, headers={"Idempotency-Key": f"k{k}"}).status_code == 202
    full = client.post("/v1/txt2img", json={})
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) == 4  # 5 jobs of 40 rows, 0.1 s each: 20 s, a place each 4 s
    assert client.post("/v1/txt2img", json={}, headers={"Idempotency-Key": "k0"}).status_code == 202
    assert client.post("/v1/txt2img", json={"priority": "bulk"}).status_code == 202
    assert len(queued(redis)) == 5


def test_dry_run_plans_and_makes_nothing(client: httpx2.Client, redis: Redis) -> None:
    publish(redis, "painter", cells(row_s=0.1, decode=0.3, encode_txt2img=0.2, store=5.0))
    body = {"prompt": "red heart on a navy background with stars", "seed": 2**32 - 1, "num_images": 2}
    answer = client.post("/v1/txt2img?dry_run=true", json=body)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["tokens"] == {"count": 10, "specials": 2, "cut": "with stars"}
    assert plan["estimate"] == {"wait_s": 0.0, "gpu_s": pytest.approx(20 * 2 * 2 * 0.1 + 2 * 0.3 + 0.2)}
    assert plan["position"] == 0
    assert plan["request"]["seeds"] == [2**32 - 1, 0]
    assert redis.zcard(JOBS_KEY) == 0
    assert queued(redis) == []


def test_dry_run_warns_of_a_model_that_nobody_serves(client: httpx2.Client, redis: Redis) -> None:
    waiting = {"field": "model", "message": "no worker serves painter now; the job would wait for one"}
    assert client.post("/v1/txt2img?dry_run=true", json={}).json()["warnings"] == [waiting]
    assert client.post("/v1/txt2img", json={}).json()["warnings"] == []
    redis.zadd(serving_key("painter"), {"one@cpu": 2e10})
    assert client.post("/v1/txt2img?dry_run=true", json={}).json()["warnings"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"width": 65_500, "height": 64, "output_format": "jpeg"}, 202),
        ({"width": 65_501, "height": 64, "output_format": "jpeg"}, 422),
        ({"width": 64, "height": 65_535, "output_format": "jpeg"}, 422),
        ({"width": 64, "height": 16_384, "output_format": "webp"}, 422),
        ({"width": 8192, "height": 8192}, 422),
        ({"sampler": "unipc"}, 422),
        ({"prompt": "another body"}, 409),
    ],
)
def test_dry_run_refuses_what_the_call_refuses(client: httpx2.Client, body: dict[str, object], status: int) -> None:
    key = {"Idempotency-Key": "once"}
    if status == 409:
        assert client.post("/v1/txt2img", json={}, headers=key).status_code == 202
    planned = client.post("/v1/txt2img?dry_run=true", json=body, headers=key)
    answer = client.post("/v1/txt2img", json=body, headers=key)
    assert (planned.status_code, answer.status_code) == (200 if status == 202 else status, status)
    if status != 202:
        assert planned.json() == answer.json()


def test_a_cut_prompt_is_a_warning_that_quotes(client: httpx2.Client) -> None:
    job = client.post("/v1/txt2img", json={"prompt": "red heart on a navy background with stars"}).json()
    (warning,) = job["warnings"]
    assert warning["field"] == "prompt"
    assert "“with stars”" in warning["message"]


def test_a_picture_s_warnings_are_in_a_header(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    body, once = {"prompt": "red heart on a navy background with stärs"}, {"Idempotency-Key": "once"}
    job = client.post("/v1/txt2img", json=body, headers=once).json()
    finish(redis, open_store(str(folder / "data" / "objects")), job["id"], png((64, 64)))
    picture = client.post("/v1/txt2img", json=body, headers=once | {"Accept": "image/png"})
    assert (picture.status_code, picture.content) == (200, png((64, 64)))
    assert json.loads(picture.headers["latentd-warnings"]) == job["warnings"]
    assert job["warnings"]


def test_no_answer_tells_where_the_storage_has_an_upload(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    files = {"image": ("a.png", png(), "image/png"), "mask": ("m.png", mask(), "image/png")}
    accepted = client.post("/v1/inpaint", files=files)
    job_id = accepted.json()["id"]
    answers = [accepted, client.post("/v1/inpaint?dry_run=true", files=files), client.get("/v1/jobs")]
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
    answers += [client.get(f"/v1/jobs/{job_id}{path}") for path in ("", "/events", "/trace", "/deliveries")]
    assert all(answer.status_code == 200 for answer in answers[1:])
    assert not [answer.url for answer in answers if "uploads/" in answer.text or '"path"' in answer.text]
    assert '"path"' not in json.dumps(client.get("/openapi.json").json()["components"]["schemas"]["Upload"])
    assert upload_of(redis, job_id).path.startswith("uploads/")


def test_a_seed_of_minus_one_is_drawn(client: httpx2.Client) -> None:
    once = {"Idempotency-Key": "seed"}
    job = client.post("/v1/txt2img", json={"seed": -1}, headers=once).json()
    assert job["request"]["seed"] >= 0
    assert client.post("/v1/txt2img", json={}, headers=once).json()["id"] == job["id"]
    files = {"image": ("a.png", png(), "image/png")}
    assert client.post("/v1/upscale", data={"seed": "-1"}, files=files).json()["request"]["seed"] >= 0


def test_an_image_format_that_is_never_made_is_not_acceptable(client: httpx2.Client, redis: Redis) -> None:
    answer = client.post("/v1/txt2img", json={}, headers={"Accept": "image/gif"})
    assert (answer.status_code, answer.json()["field"]) == (406, "Accept")
    assert redis.dbsize() == 0


def test_deadlines_that_cannot_be_met(client: httpx2.Client, redis: Redis) -> None:
    publish(redis, "painter", cells(row_s=0.1))
    impossible = client.post("/v1/txt2img", json={"deadline_ms": 3000})
    assert (impossible.status_code, impossible.json()["field"]) == (422, "deadline_ms")
    assert client.post("/v1/txt2img", json={"deadline_ms": 5000}).status_code == 202
    behind = client.post("/v1/txt2img", json={"deadline_ms": 5000})
    assert (behind.status_code, behind.json()["field"]) == (429, "deadline_ms")
    assert int(behind.headers["retry-after"]) == 3


def test_cancel_of_a_waiting_job_is_at_once_and_told(client: httpx2.Client, redis: Redis) -> None:
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert answer.json()["ended_at"] is not None
    rq_job = RQJob.fetch(job_id, connection=redis, serializer=JSONSerializer)
    assert rq_job.get_status() == "canceled"
    registry = CanceledJobRegistry(rq_job.origin, connection=redis, serializer=JSONSerializer)
    assert registry.get_job_ids() == [job_id]
    assert 0 < redis.ttl(rq_job.key) <= 86_400
    assert 0 < redis.ttl(job_key(job_id)) <= 86_400
    assert queued(redis) == []
    assert redis.hlen(work_key("painter", "interactive")) == 0
    events = [fields[b"type"] for _, fields in redis.xrange(events_key(job_id)) or [] if fields]
    assert events == [b"queued", b"canceled"]
    assert client.delete(f"/v1/jobs/{job_id}").json() == answer.json()


def test_purge_leaves_nothing_but_410(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    files = {"image": ("a.png", png(), "image/png")}
    job_id = client.post("/v1/upscale", files=files).json()["id"]
    early = client.delete(f"/v1/jobs/{job_id}?purge=true")
    assert (early.status_code, early.json()["field"]) == (409, "purge")
    store = open_store(str(folder / "data" / "objects"))
    finish(redis, store, job_id, png((64, 64)))
    image = client.get(f"/v1/jobs/{job_id}").json()["images"][0]
    assert client.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 204
    assert client.get(f"/v1/jobs/{job_id}").status_code == 410
    assert client.get(image["url"]).status_code == 410
    assert client.get(f"/v1/jobs/{job_id}/events").status_code == 410
    assert [item for item in store.list().collect() if job_id in item["path"]] == []
    left = {key.decode() for key in redis.scan_iter()}
    assert left == {gone_key(job_id), LAYOUT_KEY, "rq:queues", wake_key("latentd.upscaler.interactive")}


def test_an_expired_job_is_gone_and_an_unknown_one_not_found(client: httpx2.Client, redis: Redis) -> None:
    ids = [client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"] for _ in range(2)]
    redis.delete(job_key(ids[0]), events_key(ids[0]))
    assert client.get(f"/v1/jobs/{ids[0]}").status_code == 410
    assert [job["id"] for job in client.get("/v1/jobs").json()["items"]] == [ids[1]]
    assert client.get(f"/v1/jobs/{ids[0]}").status_code == 410
    for path in ("jobs/nope", "jobs/nope/events", "images/nope-0", "images/nope", "models/nope"):
        answer = client.get(f"/v1/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_waiting_answers_the_finished_job_or_its_bytes(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    ran_out = client.post("/v1/txt2img", json={"prompt": "x"}, headers={"Prefer": "wait=0.1"})
    assert (ran_out.status_code, ran_out.headers["preference-applied"]) == (202, "wait=0.1")
    store, data = open_store(str(folder / "data" / "objects")), png((64, 64))

    def work() -> None:
        while not (ids := queued(redis, lane="bulk")):
            pass
        finish(redis, store, ids[0], data)

    for headers in ({"Prefer": "wait=5"}, {"Accept": "image/png"}, {"Accept": "image/*"}):
        worker = threading.Thread(target=work)
        worker.start()
        answer = client.post("/v1/txt2img", json={"priority": "bulk"}, headers=headers)
        worker.join()
        assert answer.status_code == 200, answer.text
        redis.delete("rq:queue:latentd.painter.bulk")
        if "Accept" in headers:
            assert (answer.content, answer.headers["content-type"]) == (data, "image/png")
            job_id = answer.headers["location"].rpartition("/")[2]
            seed = client.get(f"/v1/jobs/{job_id}").json()["request"]["seed"]
            assert answer.headers["latentd-seed"] == str(seed)
        else:
            assert answer.json()["status"] == "succeeded"
    late = client.post("/v1/txt2img", json={"num_images": 1}, headers={"Accept": "image/png", "Prefer": "wait=0"})
    assert late.status_code == 202


def test_a_failed_job_waited_for_answers_its_problem(client: httpx2.Client, redis: Redis) -> None:
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}, headers={"Idempotency-Key": "k"}).json()["id"]
    fail(redis, job_id, DeadlineMissed("deadline_ms passed", field="deadline_ms", value=5).problem())
    headers = {"Idempotency-Key": "k", "Prefer": "wait=1"}
    answer = client.post("/v1/txt2img", json={"prompt": "x"}, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (504, "deadline_ms")
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    assert client.get(f"/v1/jobs/{job_id}").json()["error"]["status"] == 504


def test_each_accepted_job_wakes_a_worker_and_hints_do_not_pile_up(client: httpx2.Client, redis: Redis) -> None:
    key = wake_key(queue_name(PAINTER.id, "interactive"))
    redis.delete(key)
    client.post("/v1/txt2img", json={"prompt": "red heart"})
    assert redis.llen(key) == 1
    redis.rpush(key, *[""] * (WAKES - 1))
    client.post("/v1/txt2img", json={"prompt": "red heart"})
    assert redis.llen(key) == WAKES


def test_accept_chooses_the_format(client: httpx2.Client) -> None:
    headers = {"Accept": "image/webp", "Prefer": "wait=0"}
    job = client.post("/v1/txt2img", json={}, headers=headers).json()
    assert job["request"]["output_format"] == "webp"


def test_models_are_listed_and_published_cards_win(client: httpx2.Client, redis: Redis) -> None:
    models = client.get("/v1/models").json()
    assert [(card["id"], card["loaded"]) for card in models["items"]] == [("painter", False), ("upscaler", False)]
    redis.zadd("latentd:serving:painter", {"worker": 2e10})
    redis.hset(CARDS_KEY, "painter", PAINTER.model_copy(update={"description": "Another."}).to_json())
    redis.hset(CARDS_KEY, "broken", "{}")
    card = client.get("/v1/models/painter").json()
    assert (card["description"], card["loaded"]) == ("Another.", True)
    assert len(client.get("/v1/models").json()["items"]) == 2


def test_a_mask_that_covers_everything_is_told(client: httpx2.Client, redis: Redis) -> None:
    redis.zadd(serving_key("painter"), {"one@cpu": 2e10})
    for hole, words in ((png((16, 16), "white"), "covers the whole"), (png(mode="RGBA", colour=0), "transparent")):
        files = {"image": ("a.png", png(), "image/png"), "mask": ("m.png", hole, "image/png")}
        data = {"mask_mode": "white" if words != "transparent" else "black"}
        for query in ("?dry_run=true", ""):
            warnings = client.post(f"/v1/inpaint{query}", files=files, data=data).json()["warnings"]
            assert [(each["field"], words in each["message"]) for each in warnings] == [("mask", True)]
