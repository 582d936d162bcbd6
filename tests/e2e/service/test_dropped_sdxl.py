"""SDXL dropped into LATENTD_MODELS_DIR: base, inpainting and refiner answer over HTTP by what their cards list."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from core.pictures import lossless
from tests.parity.run import CASES
from tests.service import Service

MODELS = ("base", "inpaint", "refiner", "v_zsnr")
PICTURE = base64.b64encode(lossless(Image.radial_gradient("L").resize((70, 50)).convert("RGB"))).decode()
MASK = Image.new("L", (70, 50))
MASK.paste(255, (20, 10, 50, 40))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("models")
    for name in MODELS:
        shutil.copytree(CASES / "sdxl" / f"sdxl_{name}" / "pipeline", folder / name)
    with Service({"LATENTD_MODELS_DIR": str(folder), "LATENTD_THREADS": "1"}) as started:
        yield started


def _drawn(service: Service, kind: str, **fields: Any) -> Image.Image:
    """The picture alone: its file names what was asked for."""
    job = service.post(f"/v1/{kind}", **{"prompt": "red cat", "steps": 4, "seed": 1, "guidance_scale": 3.0, **fields})
    picture = Image.open(io.BytesIO(service.image(job))).convert("RGB")
    picture.info.clear()
    return picture


def test_cards_say_what_each_can_do(service: Service) -> None:
    cards = {card["id"]: card for card in service.client.get("/v1/models").json()["items"]}
    assert cards.keys() == set(MODELS)
    assert {name: card["tasks"] for name, card in cards.items()} == {
        "base": ["txt2img", "inpaint", "img2img"],
        "inpaint": ["txt2img", "inpaint", "img2img"],
        "refiner": ["img2img"],
        "v_zsnr": ["txt2img", "inpaint", "img2img"],
    }
    assert cards["base"]["defaults"]["sampler"] == "euler"
    assert cards["base"]["defaults"]["negative_prompt"] is None
    assert "negative_prompt" not in cards["refiner"]["defaults"]
    assert "aesthetic_score" in cards["refiner"]["fields"]
    assert "target_size" not in cards["refiner"]["fields"]


def test_base_draws_any_size_and_is_told_of_sizes(service: Service) -> None:
    plain = _drawn(service, "txt2img", model="base", width=72, height=100)
    assert plain.size == (72, 100)
    told = {"original_size": [72, 100], "crop": [0, 0], "target_size": [72, 100]}
    assert _drawn(service, "txt2img", model="base", width=72, height=100, **told) == plain
    for field, value in {"original_size": [20, 20], "crop": [0, 40], "target_size": [512, 100]}.items():
        assert _drawn(service, "txt2img", model="base", width=72, height=100, **{field: value}) != plain, field


def test_no_negative_prompt_is_not_an_empty_one(service: Service) -> None:
    nothing, empty = (_drawn(service, "txt2img", model="base", **sent) for sent in ({}, {"negative_prompt": ""}))
    assert nothing != empty


def test_guidance_is_rescaled(service: Service) -> None:
    plain, rescaled = (_drawn(service, "txt2img", model="v_zsnr", guidance_rescale=share) for share in (0.0, 0.7))
    assert plain == _drawn(service, "txt2img", model="v_zsnr")
    assert plain != rescaled


@pytest.mark.parametrize("model", ["base", "inpaint"])
def test_pictures_are_drawn_over_and_repainted(service: Service, model: str) -> None:
    mask = base64.b64encode(lossless(MASK)).decode()
    over = _drawn(service, "img2img", model=model, image=PICTURE, strength=0.5)
    assert over.size == (70, 50)
    repainted = _drawn(service, "inpaint", model=model, image=PICTURE, mask=mask)
    original = Image.open(io.BytesIO(base64.b64decode(PICTURE)))
    assert repainted.getpixel((0, 0)) == original.getpixel((0, 0))
    assert repainted.crop((20, 10, 50, 40)).tobytes() != original.crop((20, 10, 50, 40)).tobytes()


def test_the_refiner_finishes_what_the_base_began(service: Service) -> None:
    begun = _drawn(service, "txt2img", model="base", width=64, height=64, denoising_end=0.5)
    image = base64.b64encode(lossless(begun)).decode()
    refined = _drawn(service, "img2img", model="refiner", image=image, denoising_start=0.5, aesthetic_score=7.0)
    assert refined != _drawn(service, "img2img", model="refiner", image=image, denoising_start=0.5)
    job = service.post("/v1/img2img", model="refiner", prompt="cat", steps=4, image=image, denoising_start=0.5)
    assert job["progress"]["steps"] == 2
    assert "target_size" not in job["request"]


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("txt2img", {"model": "refiner"}, "model"),
        ("txt2img", {"model": "base", "aesthetic_score": 6.0}, "aesthetic_score"),
        ("txt2img", {"model": "base", "original_size": [64]}, "original_size"),
        ("txt2img", {"model": "base", "crop": [-1, 0]}, "crop"),
        ("txt2img", {"model": "base", "denoising_end": 1.0}, "denoising_end"),
        ("img2img", {"model": "refiner", "image": PICTURE, "target_size": [64, 64]}, "target_size"),
        ("img2img", {"model": "refiner", "image": PICTURE, "denoising_start": 0.8, "strength": 0.3}, "strength"),
        (
            "img2img",
            {"model": "base", "image": PICTURE, "denoising_start": 0.8, "denoising_end": 0.8},
            "denoising_end",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(service: Service, kind: str, fields: dict[str, Any], field: str) -> None:
    answer = service.client.post(f"/v1/{kind}", json={"prompt": "cat", **fields})
    assert (answer.status_code, answer.json()["field"].split(".")[0]) == (422, field)


def test_a_form_says_sizes_in_words(service: Service) -> None:
    data = {"model": "base", "prompt": "cat", "steps": "2", "original_size": "1024x768", "crop": "0,8"}
    files = {"image": base64.b64decode(PICTURE)}
    job = service.client.post("/v1/img2img", data=data, files=files).json()
    assert job["request"]["original_size"] == [1024, 768]
    assert job["request"]["crop"] == [0, 8]
