"""Layouts over HTTP: boxes become the model's numbers, what it has none for is refused by name, and jobs run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.card import LayoutCard
from contract.redis_keys import CARDS_KEY
from core.settings import Settings
from tests.enqueue import digests, enqueue, make_request
from tests.gateway import PAINTER
from tests.integration.rig import Rig, tiny_settings
from tests.parity.run import CASES
from tests.tiny import write_tiny_inpaint
from workers.library.catalogue import write_missing_cards

CARD = PAINTER.model_copy(
    update={
        "id": "scene",
        "tasks": ("layout2img",),
        "fields": ("boxes", "crop", "tokens", "width", "height", "steps", "sampler", "eta"),
        "layout": LayoutCard(vocabulary=102, length=11),
        "class_names": ("cat", "dog"),
    }
)
BOX = {"box": [0, 0, 1, 1], "class_id": 1}


@pytest.fixture
def scenes(client: httpx2.Client, redis: Redis) -> httpx2.Client:
    """The gateway with a layout model that a worker published."""
    redis.hset(CARDS_KEY, CARD.id, CARD.to_json())
    return client


def post(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post("/v1/layout2img", json={"model": "scene", **fields})


def test_boxes_are_resolved_to_numbers(scenes: httpx2.Client) -> None:
    boxes = [{"box": [0.5, 0, 1, 0.5], "label": "Dog"}, {"box": [0, 0, 1, 1], "class_id": 7}]
    answer = post(scenes, boxes=boxes, width=96)
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    # 4.5 rounds to even: x = 0.5 is column 4 of the ten, y = 0.5 row 4.
    assert request["tokens"] == [1, 4, 49, 7, 0, 99, 101, 101, 101, 0, 99]
    assert (request["kind"], request["width"], request["height"]) == ("layout2img", 96, 64)
    assert post(scenes, tokens=request["tokens"]).json()["request"]["tokens"] == request["tokens"]
    dry = scenes.post("/v1/layout2img?dry_run=true", json={"model": "scene", "boxes": boxes})
    assert dry.json()["request"]["tokens"] == request["tokens"]


@pytest.mark.parametrize(
    ("sent", "field", "detail"),
    [
        ({}, "boxes", "boxes or tokens say what is where; neither is there"),
        ({"boxes": [BOX] * 4}, "boxes", "boxes are 4; model scene has room for 3"),
        ({"boxes": [{**BOX, "box": [0, 0, 2, 1]}]}, "boxes", "boxes.0.box.2 is 2"),
        ({"boxes": [{**BOX, "box": [1, 0, 0, 1]}]}, "boxes", "the first two below the others"),
        (
            {"boxes": [{"box": [0, 0, 1, 1], "label": "bird"}]},
            "boxes",
            "no class 'bird' among its 2 class_names",
        ),
        ({"boxes": [{**BOX, "class_id": 101}]}, "boxes", "has number 101; the model's go up to 100"),
        ({"tokens": [1, 2]}, "tokens", "tokens are 2; the model reads 11"),
        ({"tokens": [102] * 11}, "tokens", "tokens have 102; the model's go up to 101"),
        ({"boxes": [BOX], "guidance_scale": 2.0}, "guidance_scale", "guidance_scale is not a field of this request"),
        ({"boxes": [BOX], "prompt": "cat"}, "prompt", "prompt is not a field of this request"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_nothing_is_enqueued(
    scenes: httpx2.Client, redis: Redis, sent: dict[str, Any], field: str, detail: str
) -> None:
    before = redis.dbsize()
    answer = post(scenes, **sent)
    assert answer.status_code == 422, answer.text
    assert detail in answer.json()["detail"]
    assert answer.json()["field"] == field
    assert redis.dbsize() == before


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a worker over an original file of a layout model, beside another model."""
    models = tmp_path / "models"
    write_tiny_inpaint(models / "tiny")
    (models / "scene").mkdir()
    for source, name in (("model.ckpt", "scene.ckpt"), ("config.json", "scene.json")):
        shutil.copy(CASES / "other" / "layout2img" / source, models / "scene" / name)
    write_missing_cards(models)
    return tiny_settings(models, redis_url, tmp_path / "data")


@pytest.fixture
def scene_rig(redis: Redis, settings: Settings) -> Iterator[Rig]:
    rig = Rig(redis, settings, models=("tiny", "scene"))
    yield rig
    rig.close()


def test_an_original_file_is_served_and_strict_jobs_keep_their_bytes(redis: Redis, scene_rig: Rig) -> None:
    none, size = 255, {"width": 32, "height": 32}
    layout = (3, 0, 254, *(none,) * 12, 0, 254)
    jobs: dict[str, dict[str, Any]] = {
        "alone": {"tokens": layout, "determinism": "strict"},
        "beside": {"tokens": layout, "determinism": "strict"},
        "other": {"tokens": (4, *layout[1:])},
    }
    requests = {name: make_request("scene", kind="layout2img", **size, **fields) for name, fields in jobs.items()}
    enqueue(redis, "alone", requests["alone"])
    assert scene_rig.finish("alone") == ["succeeded"]
    for name in ("beside", "other"):
        enqueue(redis, name, requests[name])
    assert scene_rig.finish("beside", "other") == ["succeeded", "succeeded"]
    assert digests(redis, "alone") == digests(redis, "beside") != digests(redis, "other")
