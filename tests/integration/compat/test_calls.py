"""Calls of other APIs at a gateway without a worker: who waits, who leaves, whose jobs are whose, what is told."""

from __future__ import annotations

import base64
import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from redis import Redis

from contract.events import Preview, Previews
from contract.redis_keys import CARDS_KEY, JOBS_KEY, attended_key, job_key, preview_key
from core.errors import JobFailed
from core.storage import open_store
from service.app import create_app
from service.auth import keys
from service.compat.a1111 import extras
from service.requests import decoders
from tests.compat import job_made, listed, webp
from tests.gateway import PAINTER, fail, finish, mask, png, running, settings_for
from tests.waits import within

GENERATIONS, TXT2IMG = "/v1/images/generations", "/sdapi/v1/txt2img"
CLIP_SKIP = "CLIP_stop_at_last_layers"


def ends_as(redis: Redis, job_id: str, status: str) -> bool:
    return bool(within(lambda: redis.hget(job_key(job_id), "status") == status.encode()))


def leave(client: httpx2.Client, redis: Redis, path: str, body: dict[str, Any]) -> str:
    """Send a request, hang up when its job is there, and return the job's id."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return job_made(redis)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATIONS, {"prompt": "red heart"}),
        (GENERATIONS, {"prompt": "red heart", "stream": True, "partial_images": 1}),
        (TXT2IMG, {"prompt": "red heart"}),
        ("/sdapi/v1/extra-single-image", {"image": base64.b64encode(png()).decode(), "upscaler_1": "upscaler"}),
    ],
)
def test_a_client_that_leaves_cancels_its_job(
    client: httpx2.Client, redis: Redis, path: str, body: dict[str, Any]
) -> None:
    job_id = leave(client, redis, path, body)
    assert job_id
    assert ends_as(redis, job_id, "canceled")
    assert redis.zcard(attended_key("")) == 0


def test_a_wait_that_runs_out_cancels_its_job(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    with running(settings_for(redis_url, tmp_path, compat_wait_s=0.2)) as client:
        answers = [client.post(path, json={"prompt": "x"}) for path in (GENERATIONS, TXT2IMG)]
        stream = client.post(GENERATIONS, json={"prompt": "x", "stream": True})
    assert [answer.status_code for answer in answers] == [504, 504]
    assert answers[0].headers["x-should-retry"] == "false"
    assert "LATENTD_COMPAT_WAIT_S=0.2" in answers[0].json()["error"]["message"]
    assert "LATENTD_COMPAT_WAIT_S=0.2" in answers[1].json()["detail"]
    assert "event: error\ndata: " in stream.text
    statuses = {redis.hget(job_key(job_id), "status") for job_id in listed(redis, JOBS_KEY)}
    assert statuses == {b"canceled"}


def test_a_failed_job_is_its_problem_in_the_api_s_form(client: httpx2.Client, redis: Redis) -> None:
    problem = JobFailed("the latents are NaN").problem()
    with ThreadPoolExecutor(1) as threads:
        for path in (GENERATIONS, TXT2IMG):
            waiting = threads.submit(client.post, path, json={"prompt": "red heart"})
            fail(redis, job_made(redis), problem)
            answer = waiting.result()
            assert answer.status_code == 500
            assert "the latents are NaN" in answer.text
            assert ("error" in answer.json()) is True


def test_a_job_that_others_cancel_is_an_error_of_openai_s(client: httpx2.Client, redis: Redis) -> None:
    with ThreadPoolExecutor(1) as threads:
        for stream in (False, True):
            waiting = threads.submit(client.post, GENERATIONS, json={"prompt": "red heart", "stream": stream})
            job_id = job_made(redis)
            client.delete(f"/v1/jobs/{job_id}")
            answer = waiting.result()
            assert answer.status_code == (200 if stream else 409)
            assert answer.headers.get("x-should-retry") == (None if stream else "false")
            assert ("event: error\ndata: " in answer.text) == stream
            assert f"job {job_id} was canceled; there is no image" in answer.text


def test_what_is_ignored_or_cut_is_told(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    store = open_store(str(folder / "data" / "objects"))
    long = "red heart on a navy background with stars"
    calls: list[tuple[str, dict[str, Any], set[str]]] = [
        (GENERATIONS, {"prompt": long, "background": "auto", "moderation": "low"}, {"moderation", "prompt"}),
        (GENERATIONS, {"prompt": long, "stream": True, "moderation": "low"}, {"moderation", "prompt"}),
        (
            TXT2IMG,
            {"prompt": long, "tiling": True, "enable_hr": True, "hr_scale": 3, "s_noise": 1},
            {"tiling", "prompt"},
        ),
        (TXT2IMG, {"alwayson_scripts": {"ControlNet": {"args": []}, "a": {"args": [False]}}}, set()),
        (TXT2IMG, {"prompt": "x", "override_settings": {"sd_vae": "a", "samples_format": "png"}}, {"sd_vae"}),
        (TXT2IMG, {"prompt": "x", "override_settings": {"CLIP_stop_at_last_layers": 2}}, {"CLIP_stop_at_last_layers"}),
    ]
    with ThreadPoolExecutor(1) as threads:
        for path, body, fields in calls:
            waiting = threads.submit(client.post, path, json=body)
            finish(redis, store, job_made(redis), png((64, 64)))
            answer = waiting.result()
            assert answer.status_code == 200, answer.text
            assert {item["field"] for item in json.loads(answer.headers.get("latentd-warnings", "[]"))} == fields


def test_fields_that_the_model_lacks_don_t_stop_the_web_ui_s_clients(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    card = PAINTER.model_copy(update={"fields": ("prompt", "steps", "sampler")})
    settings = settings_for(redis_url, tmp_path, card)
    with running(settings) as client, ThreadPoolExecutor(1) as threads:
        sent = {"prompt": "x", "negative_prompt": "hat", "cfg_scale": 7, "width": 64, "height": 64}
        waiting = threads.submit(client.post, TXT2IMG, json=sent)
        finish(redis, open_store(settings.storage), job_made(redis), png((64, 64)))
        told = {item["field"] for item in json.loads(waiting.result().headers["latentd-warnings"])}
        assert told == {"guidance_scale", "height", "negative_prompt", "width"}


def test_urls_are_absolute_by_the_public_origin(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    settings = settings_for(redis_url, tmp_path, public_url="https://example.org/draw")
    app = create_app(settings, insecure=True)
    with running(settings, app) as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, f"/draw{GENERATIONS}", json={"prompt": "red heart"})
        job_id = job_made(redis)
        finish(redis, open_store(settings.storage), job_id, png((64, 64)))
        assert waiting.result().json()["data"] == [{"url": f"https://example.org/draw/v1/images/{job_id}-0"}]


def test_progress_and_interrupt_are_of_the_caller_s_own_jobs(client: httpx2.Client, redis: Redis) -> None:
    first, second = (keys.create(redis, name, ["generate", "read"]) for name in ("first", "second"))
    theirs, mine = (httpx2.BasicAuth("any", token) for _, token in (first, second))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, TXT2IMG, json={"prompt": "x"}, auth=theirs)
        job_id = job_made(redis, first[0].id)
        assert client.get("/sdapi/v1/progress", auth=mine).json()["state"]["job_count"] == 0
        for path in ("interrupt", "skip"):
            assert client.post(f"/sdapi/v1/{path}", auth=mine).json() == {}
        assert redis.hget(job_key(job_id), "status") == b"queued"
        assert client.get("/sdapi/v1/progress", auth=theirs).json()["state"]["job"] == job_id
        client.post("/sdapi/v1/interrupt", auth=theirs)
        assert waiting.result().json()["images"] == []


def test_progress_shows_all_pictures_of_a_batch_as_the_web_ui_does(client: httpx2.Client, redis: Redis) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, TXT2IMG, json={"prompt": "x", "batch_size": 3})
        job_id = job_made(redis)
        assert client.get("/sdapi/v1/progress").json()["current_image"] is None
        told = Previews(newest={k: Preview(step=3, image=webp(colour)) for k, colour in ((0, "red"), (2, "blue"))})
        redis.set(preview_key(job_id), told.to_json())
        sheet = Image.open(io.BytesIO(base64.b64decode(client.get("/sdapi/v1/progress").json()["current_image"])))
        assert (sheet.format, sheet.size) == ("PNG", (80, 60))
        colours = [sheet.getpixel(place) for place in ((20, 15), (60, 15), (20, 45), (60, 45))]
        assert colours == [(255, 0, 0), (0, 0, 0), (0, 0, 255), (0, 0, 0)]
        assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
        client.post("/sdapi/v1/interrupt")
        waiting.result()


def test_a_page_s_jobs_aren_t_interrupted(client: httpx2.Client, redis: Redis) -> None:
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
    client.post("/sdapi/v1/interrupt")
    assert client.get("/sdapi/v1/progress").json()["progress"] == 0
    assert redis.hget(job_key(job_id), "status") == b"queued"


def test_a_password_is_a_key_for_the_web_ui_s_paths_alone(client: httpx2.Client, redis: Redis) -> None:
    auth = httpx2.BasicAuth("any", keys.create(redis, "key", ["generate", "read"])[1])
    assert client.get("/sdapi/v1/samplers", auth=auth).status_code == 200
    assert client.get("/internal/ping", auth=auth).status_code == 200
    assert client.get("/v1/jobs", auth=auth).status_code == 401
    broken = client.get("/sdapi/v1/samplers", headers={"Authorization": "Basic =="})
    assert (broken.status_code, set(broken.json())) == (401, {"error", "detail", "body", "errors"})


def test_who_may_not_read_gets_no_picture(client: httpx2.Client, redis: Redis) -> None:
    headers = {"Authorization": f"Bearer {keys.create(redis, 'key', ['generate'])[1]}"}
    for path, body in ((TXT2IMG, {}), (GENERATIONS, {"prompt": "x", "response_format": "b64_json"})):
        assert client.post(path, json=body, headers=headers).status_code == 403


@pytest.mark.parametrize(("edits", "scale"), [(True, 2.5), (False, None)])
def test_the_guidance_of_a_picture_reaches_models_that_edit(
    client: httpx2.Client, redis: Redis, edits: bool, scale: float | None
) -> None:
    fields = ("prompt", "guidance_scale", "image", "image_guidance_scale" if edits else "strength")
    name = f"edits-{edits}"
    card = PAINTER.model_copy(update={"id": name, "tasks": ("img2img",), "fields": fields})
    redis.hset(CARDS_KEY, name, card.to_json())
    body = {"init_images": [_picture(png())], "prompt": "winter", "image_cfg_scale": 2.5, "denoising_strength": 0.5}
    job_id = leave(client, redis, "/sdapi/v1/img2img", body | {"override_settings": {"sd_model_checkpoint": name}})
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["request"].get("image_guidance_scale") == scale
    assert (job["request"]["strength"] == 0.5) == (not edits)


def test_pictures_of_one_call_wait_for_each_other(client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "WAIT_S", 0.02)
    picture = _picture(png((500, 500)))
    body = {"upscaler_1": "Lanczos", "upscaling_resize": 3, "imageList": [{"name": "a", "data": picture}] * 6}
    answer = client.post("/sdapi/v1/extra-batch-images", json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == 6


def test_what_is_made_of_small_files_without_a_job_counts_as_bodies_do(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = _picture(png((500, 500)))
    body = {"upscaler_1": "None", "imageList": [{"name": "a", "data": picture}] * 2, "ignored": "x" * 2**17}
    assert client.post("/sdapi/v1/extra-batch-images", json=body).status_code == 200
    monkeypatch.setattr(extras, "COPIES", 2**30)
    for _ in range(2):
        answer = client.post("/sdapi/v1/extra-batch-images", json=body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10"), answer.text


def test_one_failed_picture_of_a_call_ends_the_others(client: httpx2.Client, redis: Redis) -> None:
    body = {"upscaler_1": "upscaler", "imageList": [{"name": "a", "data": _picture(png())}] * 2}
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, "/sdapi/v1/extra-batch-images", json=body, timeout=20)
        first, second = within(lambda: jobs if len(jobs := listed(redis, attended_key(""))) == 2 else [])
        fail(redis, second, JobFailed("the latents are NaN").problem())
        answer = waiting.result()
    assert (answer.status_code, answer.json()["detail"]) == (500, "the latents are NaN")
    assert ends_as(redis, first, "canceled")


@pytest.mark.parametrize(
    ("fields", "sent", "skip", "told"),
    [((), 2, 2, []), ((), 1, 1, []), (("original_size",), 1, None, []), (("original_size",), 2, None, [CLIP_SKIP])],
)
def test_clip_s_layer_is_chosen_for_the_models_for_which_the_web_ui_does(
    client: httpx2.Client,
    redis: Redis,
    folder: Path,
    fields: tuple[str, ...],
    sent: int,
    skip: int | None,
    told: list[str],
) -> None:
    card = PAINTER.model_copy(update={"id": "clip", "fields": (*PAINTER.fields, "prompt_syntax", "clip_skip", *fields)})
    redis.hset(CARDS_KEY, card.id, card.to_json())
    body = {"prompt": "x", "override_settings": {"sd_model_checkpoint": card.id, CLIP_SKIP: sent}}
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, TXT2IMG, json=body)
        job_id = job_made(redis)
        assert client.get(f"/v1/jobs/{job_id}").json()["request"].get("clip_skip") == skip
        finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
        warnings = json.loads(waiting.result().headers.get("latentd-warnings", "[]"))
    assert [item["field"] for item in warnings] == told


def _picture(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_values_are_read_as_leniently_as_by_the_web_ui(client: httpx2.Client, redis: Redis) -> None:
    card = PAINTER.model_copy(update={"id": "over", "tasks": ("img2img",), "fields": (*PAINTER.fields, "strength")})
    redis.hset(CARDS_KEY, card.id, card.to_json())
    sent = {"steps": "2", "seed": -1.0, "cfg_scale": "7", "mask_blur": 4.0, "sampler_name": "", "sampler_index": ""}
    picture = {"init_images": [_picture(png())], "mask": "", "denoising_strength": 0, "inpaint_full_res": 1}
    picture["override_settings"] = {"sd_model_checkpoint": card.id}
    job = client.get(f"/v1/jobs/{leave(client, redis, '/sdapi/v1/img2img', sent | picture)}").json()
    assert (job["kind"], job["request"]["steps"], job["request"]["guidance_scale"]) == ("img2img", 2, 7.0)
    assert int(job["request"]["steps"] * job["request"]["strength"]) == 0, "one step, as there"


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (TXT2IMG, {"batch_size": 16, "n_iter": 2}, "batch_size times n_iter is 32; at most 16"),
        (TXT2IMG, {"scheduler": "sideways"}, "scheduler 'sideways' not found; there are Automatic"),
        (TXT2IMG, {"alwayson_scripts": {"ControlNet": {"args": [{"model": "x"}]}}}, "script 'ControlNet' not found"),
        (TXT2IMG, {"override_settings": {"sd_model_checkpoint": "x"}}, "checkpoint 'x' not found; there are painter"),
        (TXT2IMG, {"steps": "many"}, "steps is 'many'; it must be an integer from 1 to 1000"),
        (TXT2IMG, {"steps": 2.5}, "steps is 2.5; it must be an integer from 1 to 1000"),
        (TXT2IMG, {"steps": "0"}, "steps is '0'; it must be an integer from 1 to 1000"),
        (TXT2IMG, {"steps": True}, "steps is True; it must be an integer from 1 to 1000"),
        ("/sdapi/v1/img2img", {}, "init_images is required"),
        (
            "/sdapi/v1/img2img",
            {"init_images": [_picture(png())], "mask": _picture(mask(inside=False))},
            "the mask is empty",
        ),
        ("/sdapi/v1/img2img", {"init_images": [_picture(png())], "mask": _picture(mask()), "width": 64}, "go together"),
        ("/sdapi/v1/extra-single-image", {"image": _picture(png()), "upscaler_1": "x"}, "there are None, Lanczos"),
        (
            "/sdapi/v1/extra-single-image",
            {"image": _picture(png()), "upscaler_1": "upscaler", "resize_mode": 1, "upscaling_resize_w": 2**19},
            "upscaling_resize_w makes an answer of 524288×512 pixels",
        ),
        (
            "/sdapi/v1/extra-single-image",
            {"image": _picture(png((600, 600))), "upscaler_1": "upscaler", "upscaling_resize": 16},
            "upscaling_resize makes an answer of 9600×9600 pixels",
        ),
        ("/sdapi/v1/png-info", {"image": _picture(b"none")}, "image is no PNG file"),
    ],
)
def test_refusals_of_the_web_ui_s_calls(client: httpx2.Client, path: str, body: dict[str, Any], told: str) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, set(answer.json())) == (422, {"error", "detail", "body", "errors"})
    assert told in answer.json()["detail"]


def test_refusals_of_openai_s_calls(client: httpx2.Client) -> None:
    edits = "/v1/images/edits"
    opaque = {"image": ("a.png", png()), "mask": ("m.png", png(mode="L", colour=0))}
    answers = {
        "the mask has no alpha channel": client.post(edits, files=opaque, data={"prompt": "x"}),
        "0 images were sent": client.post(edits, files={"mask": ("m.png", png())}, data={"prompt": "x"}),
        "Content-Type is 'application/json'": client.post(edits, json={"prompt": "x"}),
        "n is 11": client.post(GENERATIONS, json={"prompt": "x", "n": 11}),
        "prompt is required": client.post(GENERATIONS, json={}),
        "body is not JSON": client.post(GENERATIONS, content=b"{", headers={"Content-Type": "application/json"}),
    }
    variations = client.post("/v1/images/variations", files={"image": png()})
    assert (variations.status_code, variations.json()["error"]["code"]) == (404, "not_found")
    assert "variations aren't served; POST /v1/images/edits" in variations.json()["error"]["message"]
    for told, answer in answers.items():
        assert answer.status_code in (400, 415), answer.text
        assert told in answer.json()["error"]["message"]
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_models_are_listed_in_both_shapes(client: httpx2.Client) -> None:
    listed = client.get("/v1/models").json()
    assert [item["id"] for item in listed["items"]] == ["painter", "upscaler"]
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "painter", "object": "model", "created": 0, "owned_by": "latentd"}
    one = client.get("/v1/models/painter").json()
    assert (one["object"], one["native_size"], one["loaded"]) == ("model", 64, False)
