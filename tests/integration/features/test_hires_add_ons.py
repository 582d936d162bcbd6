"""LoRAs and a ControlNet in a job of two passes, from the request over HTTP to the picture."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.settings import Settings
from tests.controls import write_controls
from tests.engines import picture_bytes
from tests.gateway import running
from tests.integration.rig import Rig, tiny_settings
from tests.loras import CASE, write_loras
from tests.tiny import write_tiny_upscale
from workers.library.catalogue import write_missing_cards

HIRES = {"scale": 2.0, "strength": 0.5, "steps": 8, "upscaler": "tiny-upscale"}
LORAS = [{"id": "style", "scale": 0.8}, {"id": "conv", "scale": 0.5}]
CONTROL = {"id": "any", "image": base64.b64encode(picture_bytes(64, 64)).decode(), "preprocess": "canny"}


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings over one folder with a small SD 1, a model that enlarges, LoRAs and ControlNets that fit."""
    models = tmp_path / "models"
    shutil.copytree(CASE / "sd1_kohya" / "pipeline", models / "tiny")
    write_tiny_upscale(models / "tiny-upscale")
    write_loras(models)
    write_controls(models)
    write_missing_cards(models)
    return tiny_settings(models, redis_url, tmp_path / "data")


def test_a_picture_of_two_passes_with_loras_and_a_controlnet(settings: Settings, rig: Rig) -> None:
    asked: dict[str, dict[str, Any]] = {
        "all": {"loras": LORAS, "controls": [CONTROL]},
        "loras": {"loras": LORAS},
        "control": {"controls": [CONTROL]},
        "neither": {},
    }
    common = {"prompt": "a cat", "width": 64, "height": 64, "steps": 4, "seed": 7, "hires": HIRES}
    with running(settings) as client:
        jobs = {name: client.post("/v1/txt2img", json=common | fields).json() for name, fields in asked.items()}
        assert rig.finish(*(job["id"] for job in jobs.values())) == ["succeeded"] * 4
        pictures = {name: client.get(f"/v1/images/{job['id']}-0").content for name, job in jobs.items()}
    with Image.open(io.BytesIO(pictures["all"])) as picture:
        assert picture.size == (128, 128)
        told = json.loads(picture.info["latentd"])["request"]
    assert [(each["id"], each["scale"]) for each in told["loras"]] == [("style", 0.8), ("conv", 0.5)]
    assert (told["controls"][0]["id"], told["hires"]["upscaler"]) == ("any", "tiny-upscale")
    assert len({Image.open(io.BytesIO(data)).tobytes() for data in pictures.values()}) == 4
