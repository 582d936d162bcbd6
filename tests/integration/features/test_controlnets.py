"""ControlNets over HTTP: listed, resolved with their pictures, refused by name with nothing enqueued; jobs run."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.card import ControlNetCard
from contract.redis_keys import CARDS_KEY, CONTROLNETS_KEY
from core.settings import Settings
from core.storage import open_store, upload_path
from tests.controls import CASE, applied, write_controls
from tests.engines import picture_bytes
from tests.enqueue import digests, enqueue, job_state, make_request
from tests.gateway import PAINTER
from tests.integration.rig import Rig, tiny_settings
from tests.tiny import write_tiny_upscale
from workers.library.catalogue import write_missing_cards

CANNY = ControlNetCard(id="canny", hash="a" * 64, family="sd1", context_width=768)
XL = ControlNetCard(id="xl", hash="b" * 64, family="sdxl", context_width=2048)
UNION = ControlNetCard(id="union", hash="c" * 64, unserved="ControlNet Union is not served (its key task_embedding)")
MAP = picture_bytes(64, 64)
IMAGE = base64.b64encode(MAP).decode()


@pytest.fixture
def controlnets(client: httpx2.Client, redis: Redis) -> httpx2.Client:
    """The gateway with a model and three ControlNets that a worker published."""
    card = PAINTER.model_copy(update={"context_width": 768})
    redis.hset(CARDS_KEY, card.id, card.to_json())
    redis.hset(CONTROLNETS_KEY, mapping={each.id: each.to_json() for each in (XL, CANNY, UNION)})
    return client


def post(client: httpx2.Client, *controls: dict[str, Any], **fields: Any) -> httpx2.Response:
    asked = {"prompt": "red heart", "model": "painter", "width": 64, "height": 64, "controls": list(controls)}
    return client.post("/v1/txt2img", json=asked | fields)


def test_they_are_listed_with_their_cards(controlnets: httpx2.Client) -> None:
    items = controlnets.get("/v1/controlnets").json()["items"]
    assert [item["id"] for item in items] == ["canny", "union", "xl"]
    assert items[0] == CANNY.model_dump(mode="json")


def test_a_request_is_resolved_to_file_and_stored_picture(controlnets: httpx2.Client) -> None:
    answer = post(controlnets, {"id": "canny", "image": IMAGE, "scale": 0.5, "end": 0.8, "preprocess": "canny"})
    assert answer.status_code == 202, answer.text
    [control] = answer.json()["request"]["controls"]
    image = control.pop("image")
    wanted = {"id": "canny", "hash": CANNY.hash, "scale": 0.5, "start": 0.0, "end": 0.8, "preprocess": "canny"}
    assert control == wanted
    assert (image["width"], image["height"], image["bytes"], "path" in image) == (64, 64, len(MAP), False)
    assert "controls" not in post(controlnets).json()["request"]
    assert "controls" not in post(controlnets, controls=None, loras=None).json()["request"]


def test_forms_carry_the_pictures_beside_them(controlnets: httpx2.Client) -> None:
    controls = json.dumps([{"id": "canny", "scale": 0.5}, {"id": "canny", "start": 0.25}])
    form = {"prompt": "x", "model": "painter", "width": "64", "height": "64", "controls": controls}
    files = {"control_0": MAP, "control_1": picture_bytes(64, 64, seed=1)}
    answer = controlnets.post("/v1/txt2img", data=form, files=files)
    assert answer.status_code == 202, answer.text
    found = answer.json()["request"]["controls"]
    assert [(control["scale"], control["start"]) for control in found] == [(0.5, 0.0), (1.0, 0.25)]
    assert found[0]["image"]["sha256"] != found[1]["image"]["sha256"]
    answer = controlnets.post("/v1/img2img", data={"model": "painter"}, files={"image": MAP, "control_0": MAP})
    assert (answer.status_code, answer.json()["detail"]) == (422, "control_0 is the picture of no control; there are 0")


@pytest.mark.parametrize(
    ("sent", "status", "named"),
    [
        ([{"id": "nobody", "image": IMAGE}], 404, "no ControlNet 'nobody'; known ones: canny, union, xl"),
        ([{"id": "xl", "image": IMAGE}], 422, "ControlNet xl is for sdxl, with a context of width 2048; model painter"),
        ([{"id": "union", "image": IMAGE}], 422, "ControlNet union can't be used: ControlNet Union is not served"),
        ([{"id": "canny", "image": IMAGE, "scale": 2.5}], 422, "controls.0.scale is 2.5"),
        ([{"id": "canny", "image": IMAGE, "start": 0.5, "end": 0.5}], 422, "each end is above its start"),
        ([{"id": "canny", "image": IMAGE, "preprocess": "depth"}], 422, "controls.0.preprocess"),
        ([{"id": "canny"}], 422, "controls.0.image is required; in forms it is the file control_0"),
        ([{"id": "canny", "image": "!"}], 422, "controls.0.image is not base64"),
        ([{"id": "canny", "image": base64.b64encode(b"GIF89a").decode()}], 422, "control_0"),
        (
            [{"id": "canny", "image": base64.b64encode(picture_bytes(32, 64)).decode()}],
            422,
            "canny has 32x64 pixels, the picture to be made 64x64",
        ),
        ([{"id": "canny", "image": IMAGE}] * 5, 422, "a list of at most 4"),
    ],
    ids=["unknown", "family", "unserved", "scale", "order", "map", "none", "base64", "gif", "size", "many"],
)
def test_what_cannot_be_is_refused_by_name(
    controlnets: httpx2.Client, redis: Redis, sent: list[dict[str, Any]], status: int, named: str
) -> None:
    before = redis.dbsize()
    answer = post(controlnets, *sent)
    assert answer.status_code == status, answer.text
    assert named in answer.json()["detail"]
    assert redis.dbsize() == before


def test_too_large_an_answer_is_the_width_s_fault_not_the_map_s(controlnets: httpx2.Client) -> None:
    answer = post(controlnets, {"id": "canny", "image": IMAGE}, width=2**13, height=2**12)
    assert (answer.status_code, answer.json()["field"]) == (422, "width")


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of workers over a model and ControlNets of one folder."""
    models = tmp_path / "models"
    shutil.copytree(CASE / "two_controlnets" / "pipeline", models / "tiny")
    write_tiny_upscale(models / "tiny-upscale")
    write_controls(models)
    write_missing_cards(models)
    return tiny_settings(models, redis_url, tmp_path / "data")


def test_jobs_with_controls_run_and_what_a_worker_cannot_load_ends_its_job_by_name(
    redis: Redis, rig: Rig, settings: Settings
) -> None:
    store, asked = open_store(settings.storage), {}
    for job_id in ("led", "plain", "hash"):
        place = upload_path(job_id, "control_0", "0" * 64)
        store.put(place, MAP)
        control = applied(settings.models_dir, "lines").model_dump()
        control["image"]["path"] = place
        asked[job_id] = [] if job_id == "plain" else [control | ({"hash": "0" * 64} if job_id == "hash" else {})]
    for job_id, controls in asked.items():
        enqueue(redis, job_id, make_request(width=64, height=64, controls=controls))
    assert rig.finish(*asked) == ["succeeded", "succeeded", "failed"]
    assert "ControlNet 'lines' was replaced since the job was accepted" in job_state(redis, "hash")["error"]
    assert digests(redis, "led") != digests(redis, "plain")
