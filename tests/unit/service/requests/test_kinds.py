"""Resolution of the kinds beside text: classes, noise levels, strengths, and what a model without text refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from pydantic import ValidationError

from contract.base import Kind
from contract.card import ModelCard
from contract.request import REQUESTS, JobRequest
from contract.stages import stages
from contract.uploads import Upload
from core.errors import InvalidRequest
from core.pictures import lossless
from service.requests.bodies import Body
from service.requests.cards import installed_cards
from service.requests.kinds import KINDS
from service.requests.posts import HiresPost, Txt2ImgPost
from service.requests.resolution import Known, resolve, warnings_of
from service.requests.uploads import Pictures, read_pictures
from tests.tiny import CLASSES, MAP_CLASSES, write_tiny

NAMES = ("tench", "Crane", "goldfish", "crane", "shark", "hen", "owl", "robin", "jay", "kite")


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelCard]:
    """As scanning writes them; `named` is `class` with names."""
    folder = tmp_path_factory.mktemp("models")
    for kind in (
        "plain",
        "sd-inpaint",
        "ldm-inpaint",
        "x4",
        "class",
        "label",
        "map",
        "layout",
        "bare",
        "edit",
        "depth",
    ):
        write_tiny(kind, folder / kind)
    found = installed_cards(folder)
    return found | {"named": found["class"].model_copy(update={"class_names": NAMES})}


def resolved(kind: Kind, card: ModelCard, image: bytes = b"", depth: bytes = b"", **fields: Any) -> JobRequest:
    files = {name: image or lossless(Image.new("L", (40, 30), 255)) for name in KINDS[kind].files}
    files |= {"depth": depth or lossless(Image.linear_gradient("L").resize((40, 30)))} if "depth" in files else {}
    body = Body(kind, KINDS[kind].post.model_validate(fields), files)
    return resolve(body, card, read_pictures(body, card, "job", 2**20), 7, "png", 2**20)


def _refused(kind: Kind, card: ModelCard, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        resolved(kind, card, **fields)
    return caught.value


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_declaration_agrees_with_the_contract(kind: Kind) -> None:
    task, fields = KINDS[kind], REQUESTS[kind].model_fields
    assert task.files == tuple(name for name, info in fields.items() if info.annotation is Upload)
    assert task.model_fields <= task.post.model_fields.keys()
    spoken = {"boxes", "crop"} if kind == "layout2img" else {"label"}  # what becomes numbers
    posted = set(task.post.model_fields) - spoken | {"width", "height"}  # a picture's own
    given = {"kind", "numerics", "embeddings", "guidance_embedded"}  # by prompts and cards
    assert posted == fields.keys() - given - set(task.files)


def test_scanned_cards_say_what_each_model_is_for(cards: dict[str, ModelCard]) -> None:
    drawing = ("txt2img", "inpaint", "img2img")
    tasks = {name: card.tasks for name, card in cards.items()}
    assert tasks == {
        "plain": drawing,
        "sd-inpaint": drawing,
        "bare": drawing,
        "ldm-inpaint": ("inpaint",),
        "x4": ("upscale",),
        "class": ("class2img",),
        "label": ("class2img",),
        "named": ("class2img",),
        "map": ("semantic2img",),
        "edit": ("img2img",),
        "depth": ("depth2img",),
        "layout": ("layout2img",),
    }
    assert (cards["class"].classes, cards["label"].classes, cards["map"].map_classes) == (CLASSES, CLASSES, MAP_CLASSES)
    assert (cards["x4"].noise_levels, cards["x4"].scale) == (351, 4)


def test_img2img_has_a_strength_and_the_pictures_size(cards: dict[str, ModelCard]) -> None:
    request = resolved("img2img", cards["plain"], prompt="red")
    assert (request.width, request.height, request.denoising_strength, request.guided) == (40, 30, 0.75, True)
    assert resolved("img2img", cards["plain"], strength=0.2, steps=10).run_steps == 2


def test_a_picture_is_changed_as_told_and_leads_itself(cards: dict[str, ModelCard]) -> None:
    request = resolved("img2img", cards["edit"], prompt="make it red")
    assert (request.steps, request.denoising_strength, request.image_guidance) == (100, 1.0, 1.5)
    assert (request.rows_per_call, request.rows) == (3, 300)
    alone = resolved("img2img", cards["edit"], image_guidance_scale=1.0)
    assert (alone.rows_per_call, warnings_of(alone, cards["edit"], None)) == (2, ())
    [warning] = warnings_of(resolved("img2img", cards["edit"], guidance_scale=1.0), cards["edit"], None)
    assert (warning.field, warning.message) == (
        "image_guidance_scale",
        "image_guidance_scale has no effect at guidance_scale 1",
    )
    assert "image_guidance_scale" not in resolved("img2img", cards["plain"]).model_dump(mode="json", round_trip=True)
    assert _refused("img2img", cards["plain"], image_guidance_scale=2.0).field == "image_guidance_scale"
    assert _refused("img2img", cards["edit"], strength=0.5).field == "strength"
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        resolved("img2img", cards["edit"], image_guidance_scale=0.9)


def test_depths_have_the_pictures_size_and_differ(cards: dict[str, ModelCard]) -> None:
    request = resolved("depth2img", cards["depth"], prompt="red")
    assert (request.width, request.height, request.denoising_strength) == (40, 30, 0.8)
    small, flat = lossless(Image.linear_gradient("L").resize((20, 15))), lossless(Image.new("L", (40, 30), 9))
    coloured = lossless(Image.new("RGB", (40, 30), "red"))
    assert [_refused("depth2img", cards["depth"], depth=depth).detail for depth in (small, flat, coloured)] == [
        "depth has 20×15 pixels, the image 40×30; they must have the same",
        "depth is the same everywhere",
        "depth has colours; a depth map is grey, the nearer the brighter",
    ]


def test_classes_by_number_and_by_name(cards: dict[str, ModelCard]) -> None:
    request = resolved("class2img", cards["named"], class_id=4, width=128, height=64)
    assert (request.class_label, request.guidance, request.width, request.height) == (4, 3.0, 128, 64)
    assert resolved("class2img", cards["named"], label="GOLDFISH").class_label == 2


@pytest.mark.parametrize(
    ("fields", "field", "detail"),
    [
        ({}, "class_id", "class_id or label names the class; neither is there"),
        ({"class_id": 1, "label": "hen"}, "class_id", "class_id or label names the class; both are there"),
        ({"class_id": CLASSES}, "class_id", "class_id is 10; model class has 0 to 9"),
        ({"label": "crane"}, "label", "label 'crane' names classes 1, 3 of model class; choose by class_id"),
        ({"label": "tenches"}, "label", "model class has no class 'tenches' among its 10 class_names; near are tench"),
    ],
)
def test_refused_classes(cards: dict[str, ModelCard], fields: dict[str, Any], field: str, detail: str) -> None:
    error = _refused("class2img", cards["named"], **fields)
    assert (error.field, error.detail) == (field, detail)


def test_labels_without_names_and_guidance_without_a_null_class(cards: dict[str, ModelCard]) -> None:
    assert _refused("class2img", cards["label"], label="hen").bound == "class_id"
    assert _refused("class2img", cards["label"], class_id=1, guidance_scale=2.0).field == "guidance_scale"
    assert not resolved("class2img", cards["label"], class_id=1).guided


def test_a_label_map_is_checked_by_the_card(cards: dict[str, ModelCard]) -> None:
    labels = Image.new("L", (40, 30), MAP_CLASSES - 1)
    request = resolved("semantic2img", cards["map"], lossless(labels))
    assert (request.width, request.height, request.guided) == (40, 30, False)
    labels.putpixel((39, 29), MAP_CLASSES)
    error = _refused("semantic2img", cards["map"], image=lossless(labels))
    assert (error.field, error.value, error.bound) == ("image", "6 at (39, 29)", 5)


def test_noise_levels_are_those_of_the_card(cards: dict[str, ModelCard]) -> None:
    request = resolved("upscale", cards["x4"], prompt="red")
    assert (request.class_label, request.guidance, request.width) == (20, 9.0, 160)
    error = _refused("upscale", cards["x4"], noise_level=351)
    assert (error.field, error.value, error.bound) == ("noise_level", 351, 350)


def test_a_model_that_enlarges_is_guided_by_a_text_alone(cards: dict[str, ModelCard]) -> None:
    """Without one the guided and the unguided row would be the same."""
    rows = [resolved("upscale", cards["x4"], prompt=text).rows_per_call for text in ("", "red")]
    assert (rows, resolved("upscale", cards["x4"], negative_prompt="blurred").rows_per_call) == ([1, 2], 2)
    [warning] = warnings_of(resolved("upscale", cards["x4"], guidance_interval=[0.2, 0.8]), cards["x4"], None)
    assert warning.message == "guidance_interval has no effect without a prompt"
    body = Body("txt2img", Txt2ImgPost(prompt="red", hires=HiresPost(upscaler="x4")), {})
    request = resolve(body, cards["plain"], Pictures({}, {}), 7, "png", 2**20, Known({}, {}, {}, cards))
    assert [part.guided for part in stages(request)] == [True, False, True]


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint"])
def test_a_model_without_text_takes_no_prompt(cards: dict[str, ModelCard], kind: Kind) -> None:
    assert not resolved(kind, cards["bare"]).guided
    error = _refused(kind, cards["bare"], prompt="red")
    assert (error.field, error.value) == ("prompt", "red")


def test_cards_are_written_whole(cards: dict[str, ModelCard], tmp_path: Path) -> None:
    folder = write_tiny("bare", tmp_path / "bare")
    assert cards["bare"].hash == installed_cards(tmp_path)["bare"].hash
    assert not list(folder.glob(".card*"))
