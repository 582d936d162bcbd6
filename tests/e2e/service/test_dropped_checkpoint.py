"""Checkpoints dropped into LATENTD_MODELS_DIR: an SD 1 single file with CLIP's whole vocabulary, one of each
other kind, and bad ones."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from playwright.sync_api import FilePayload, expect
from safetensors.torch import load_file, save_file

from core.pictures import lossless
from tests.e2e.browser import chromium, job_id, open_page
from tests.hostile import write_hostile
from tests.parity.run import SD1_FILE
from tests.service import Service
from tests.tiny import CLASSES, MAP_CLASSES, write_tiny

TOKENS = 49_408
KINDS = ("bare", "class", "depth", "edit", "label", "map", "x4")
LONG = "a red heart on a very long road " * 12

DEPTH = base64.b64encode(lossless(Image.linear_gradient("L").resize((16, 12)))).decode()
BLUE = Image.new("RGB", (64, 64), "blue")
ONE_CLASS_TOO_HIGH = base64.b64encode(lossless(Image.new("L", (4, 4), MAP_CLASSES))).decode()


WEBUI = {"prompt": "red", "steps": 2, "width": 80, "height": 64}
SMALL = lossless(Image.new("RGB", (80, 64), "blue"))
ALL, HOLE = lossless(Image.new("L", (80, 64), 255)), lossless(Image.new("RGBA", (80, 64)))


def named(model: str) -> dict[str, Any]:
    """How the web UI's clients name a checkpoint."""
    return {"override_settings": {"sd_model_checkpoint": model}}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_sd1(path: Path) -> None:
    """The small SD 1 of the parity cases, without the config beside it, its token table as long as CLIP's."""
    state = load_file(SD1_FILE)
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    drawn = torch.randn(TOKENS, state[key].shape[1], generator=torch.Generator().manual_seed(0))
    save_file(state | {key: 0.02 * drawn.half()}, path)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_sd1(folder / "small-sd1.safetensors")
    for kind in KINDS:
        (write_tiny(kind, folder / f"tiny-{kind}") / "card.json").unlink()
    write_hostile(folder, folder.parent / "made")
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service({"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_THREADS": "1"}) as started:
        yield started


def test_the_good_one_is_served_and_each_bad_one_is_a_line(service: Service, models_dir: Path) -> None:
    cards = {card["id"]: card for card in service.client.get("/v1/models").json()["items"]}
    assert cards.keys() == {"small-sd1", *(f"tiny-{kind}" for kind in KINDS)}
    assert all(card["loaded"] for card in cards.values())
    card = cards["small-sd1"]
    assert card["token_window"] == 77
    assert card["tasks"] == ["txt2img", "inpaint", "img2img"]
    lines = [line for line in service.log_path.read_text().splitlines() if "left out" in line]
    assert all(sum(name in line for line in lines) == 1 for name in ("evil.ckpt", "truncated", "mixed-up", "unknown"))
    assert not (models_dir.parent / "made").exists()
    assert "Traceback" not in service.log_path.read_text()


def test_it_answers_a_prompt_over_http(service: Service) -> None:
    job = service.post("/v1/txt2img", prompt="red heart", width=64, height=64, steps=2, seed=1)
    assert job["request"]["model"] == "small-sd1"
    assert Image.open(io.BytesIO(service.image(job))).size == (64, 64)
    other = service.post("/v1/txt2img", prompt="blue star", width=64, height=64, steps=2, seed=1)
    assert service.image(job) != service.image(other)


def test_a_prompt_beyond_its_window_is_cut_and_quoted(service: Service) -> None:
    job = service.post("/v1/txt2img", prompt=LONG, width=64, height=64, steps=1)
    [warning] = job["warnings"]
    assert warning["field"] == "prompt"
    assert "75 tokens" in warning["message"]
    assert LONG.strip().endswith(warning["message"].split("“")[1].rstrip("”"))


def test_it_draws_over_and_repaints_by_blending(service: Service) -> None:
    picture, mask = Image.new("RGB", (70, 50), "blue"), Image.new("L", (70, 50))
    mask.paste(255, (20, 10, 50, 40))
    files = {"image": lossless(picture), "mask": lossless(mask)}
    for kind, sent in (("img2img", {"image": files["image"]}), ("inpaint", files)):
        answer = service.client.post(
            f"/v1/{kind}", data={"prompt": "red", "steps": "2"}, files=sent, headers={"Accept": "image/png"}
        )
        assert answer.status_code == 200, answer.text
        drawn = Image.open(io.BytesIO(answer.content))
        assert drawn.size == (70, 50)
        assert (drawn.getpixel((0, 0)) == (0, 0, 255)) == (kind == "inpaint")


def test_every_kind_answers_over_http(service: Service) -> None:
    labels, small = lossless(Image.new("L", (70, 50), MAP_CLASSES - 1)), lossless(Image.new("RGB", (16, 12), "blue"))
    asked: list[tuple[str, str, dict[str, Any], bytes | None]] = [
        ("txt2img", "tiny-bare", {}, None),
        ("class2img", "tiny-class", {"class_id": 3}, None),
        ("class2img", "tiny-label", {"class_id": 3, "width": 96}, None),
        ("semantic2img", "tiny-map", {}, labels),
        ("upscale", "tiny-x4", {"noise_level": 40, "prompt": "red", "guidance_scale": 2.0}, small),
        ("img2img", "tiny-edit", {"prompt": "red", "image_guidance_scale": 2.0}, small),
        ("depth2img", "tiny-depth", {"prompt": "red", "depth": DEPTH}, small),
    ]
    sizes = []
    for kind, model, fields, image in asked:
        sent = {"model": model, "steps": 2, **fields}
        picture = {} if image is None else {"image": base64.b64encode(image).decode()}
        job = service.post(f"/v1/{kind}", **sent, **picture)
        sizes.append(Image.open(io.BytesIO(service.image(job))).size)
    assert sizes == [(64, 64), (64, 64), (96, 64), (70, 50), (64, 48), (16, 12), (16, 12)]


def test_other_apis_change_pictures_by_the_model_of_that(service: Service) -> None:
    form = {"model": "tiny-edit", "prompt": "red", "steps": "2", "response_format": "b64_json"}
    edited = service.client.post("/v1/images/edits", data=form, files={"image": SMALL})
    assert edited.status_code == 200, edited.text
    sent = {**WEBUI, **named("tiny-edit"), "init_images": [text(SMALL)], "denoising_strength": 0.7}
    drawn = service.client.post("/sdapi/v1/img2img", json={**sent, "image_cfg_scale": 2.0, "cfg_scale": 5})
    assert drawn.status_code == 200, drawn.text
    told = json.loads(drawn.headers["Latentd-Warnings"])
    assert {"field": "strength", "message": "strength is of no use to model tiny-edit; it was ignored"} in told
    pictures = (edited.json()["data"][0]["b64_json"], drawn.json()["images"][0])
    assert [Image.open(io.BytesIO(base64.b64decode(each))).size for each in pictures] == [(80, 64), (80, 64)]
    newest = service.client.get("/v1/jobs").json()["items"][0]["request"]
    assert (newest["model"], newest["image_guidance_scale"], newest["guidance_scale"]) == ("tiny-edit", 2.0, 5.0)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("tiny-edit", "txt2img"),
        ("tiny-edit", "inpaint"),
        ("tiny-depth", "txt2img"),
        ("tiny-depth", "img2img"),
        ("tiny-depth", "inpaint"),
    ],
)
def test_other_apis_say_which_models_have_a_task(service: Service, model: str, kind: str) -> None:
    form, masked = {"model": model, "prompt": "red"}, kind == "inpaint"
    if kind == "txt2img":
        webui = service.client.post("/sdapi/v1/txt2img", json={**WEBUI, **named(model)})
        openai = service.client.post("/v1/images/generations", json=form)
    else:
        sent = {**WEBUI, **named(model), "init_images": [text(SMALL)]} | ({"mask": text(ALL)} if masked else {})
        files = {"image": SMALL} | ({"mask": HOLE} if masked else {})
        webui = service.client.post("/sdapi/v1/img2img", json=sent)
        openai = service.client.post("/v1/images/edits", data=form, files=files)
    assert (webui.status_code, openai.status_code) == (422, 400), (webui.text, openai.text)
    said = f"model {model} can't {kind}; models that can: small-sd1"
    assert said in webui.json()["detail"]
    assert said in openai.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("txt2img", {"model": "tiny-bare", "prompt": "red"}, "prompt"),
        ("class2img", {"model": "tiny-class", "class_id": CLASSES}, "class_id"),
        ("class2img", {"model": "tiny-class"}, "class_id"),
        ("class2img", {"model": "small-sd1", "class_id": 1}, "model"),
        ("semantic2img", {"model": "tiny-map", "image": ONE_CLASS_TOO_HIGH}, "image"),
        ("upscale", {"model": "tiny-x4", "image": ONE_CLASS_TOO_HIGH, "noise_level": 351}, "noise_level"),
        ("img2img", {"image": ONE_CLASS_TOO_HIGH, "strength": 0}, "strength"),
    ],
)
def test_what_a_kind_cannot_do_is_refused(service: Service, kind: str, fields: dict[str, Any], field: str) -> None:
    answer = service.client.post(f"/v1/{kind}", json=fields)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    if kind == "semantic2img":
        assert (answer.json()["value"], answer.json()["bound"]) == (f"{MAP_CLASSES} at (0, 0)", MAP_CLASSES - 1)


def uploaded(picture: Image.Image) -> FilePayload:
    return {"name": "x.png", "mimeType": "image/png", "buffer": lossless(picture)}


def test_depth_has_a_tab_of_its_own_that_takes_two_pictures(service: Service) -> None:
    flat, depth = uploaded(BLUE), uploaded(Image.linear_gradient("L").resize((64, 64)))
    with chromium() as browser, open_page(browser, service.url) as page:
        page.get_by_role("tab", name="By depth").click()
        page.locator("#row-image input").set_input_files(flat)
        page.press("#field-prompt", "Enter")
        expect(page.locator("#error-depth")).to_have_text("Choose a depth map first.")
        page.locator("#row-depth input").set_input_files(depth)
        expect(page.locator("#row-depth")).to_contain_text("64 × 64")
        expect(page.locator("#cost")).to_contain_text("1 picture")
        page.locator("#more").evaluate("(details) => (details.open = true)")
        page.fill("#field-steps", "2")
        page.press("#field-prompt", "Enter")
        expect(page.locator("#download")).to_be_visible()
        job = service.client.get(f"/v1/jobs/{job_id(page)}").json()
    assert (job["status"], job["kind"], job["request"]["strength"]) == ("succeeded", "depth2img", 0.8)


def test_a_picture_is_changed_by_the_model_of_that(service: Service) -> None:
    flat = uploaded(BLUE)
    with chromium() as browser, open_page(browser, service.url) as page:
        page.get_by_role("tab", name="From a picture").click()
        page.locator("#row-image input").set_input_files(flat)
        page.select_option("#field-model", "tiny-edit")
        expect(page.locator("#field-strength")).to_have_count(0)
        page.locator("#more").evaluate("(details) => (details.open = true)")
        expect(page.locator("#field-image_guidance_scale")).to_have_value("1.5")
        page.fill("#field-steps", "2")
        page.press("#field-prompt", "Enter")
        expect(page.locator("#download")).to_be_visible()
        job = service.client.get(f"/v1/jobs/{job_id(page)}").json()
    assert (job["status"], job["request"]["image_guidance_scale"]) == ("succeeded", 1.5)


def test_it_is_chosen_and_draws_from_the_page(service: Service) -> None:
    with chromium() as browser, open_page(browser, service.url) as page:
        expect(page.locator("#service")).to_have_text("Ready")
        expect(page.locator("#field-model")).to_have_value("small-sd1")
        page.locator("#more").evaluate("(details) => (details.open = true)")
        for name, value in {"width": "64", "height": "64", "steps": "2"}.items():
            page.fill(f"#field-{name}", value)
        page.fill("#field-prompt", "red heart")
        page.press("#field-prompt", "Enter")
        expect(page.locator("#download")).to_be_visible()
        job = service.client.get(f"/v1/jobs/{job_id(page)}").json()
    assert (job["status"], job["request"]["model"]) == ("succeeded", "small-sd1")
