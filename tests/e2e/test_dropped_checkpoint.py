"""A checkpoint dropped into LATENTD_MODELS_DIR: an SD 1 single file with CLIP's whole vocabulary, among bad ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from safetensors.torch import load_file, save_file

from tests.e2e.browser import chromium, job_id, open_page
from tests.engines import png
from tests.hostile import SD1, write_hostile
from tests.service import Service

TOKENS = 49_408
LONG = "a red heart on a very long road " * 12


def write_sd1(path: Path) -> None:
    """The small SD 1 of the parity cases, without the config beside it, its token table as long as CLIP's."""
    state = load_file(SD1)
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    drawn = torch.randn(TOKENS, state[key].shape[1], generator=torch.Generator().manual_seed(0))
    save_file(state | {key: 0.02 * drawn.half()}, path)


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_sd1(folder / "small-sd1.safetensors")
    write_hostile(folder, folder.parent / "made")
    return folder


@pytest.fixture(scope="module")
def service(models_dir: Path) -> Iterator[Service]:
    with Service({"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_THREADS": "1"}) as started:
        yield started


def test_the_good_one_is_served_and_each_bad_one_is_a_line(service: Service, models_dir: Path) -> None:
    [card] = service.client.get("/v1/models").json()["items"]
    assert (card["id"], card["loaded"], card["token_window"]) == ("small-sd1", True, 77)
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
    assert "77 tokens" in warning["message"]
    assert LONG.strip().endswith(warning["message"].split("“")[1].rstrip("”"))


def test_it_draws_over_and_repaints_by_blending(service: Service) -> None:
    picture, mask = Image.new("RGB", (70, 50), "blue"), Image.new("L", (70, 50))
    mask.paste(255, (20, 10, 50, 40))
    files = {"image": png(picture), "mask": png(mask)}
    for kind, sent in (("img2img", {"image": files["image"]}), ("inpaint", files)):
        answer = service.client.post(
            f"/v1/{kind}", data={"prompt": "red", "steps": "2"}, files=sent, headers={"Accept": "image/png"}
        )
        assert answer.status_code == 200, answer.text
        drawn = Image.open(io.BytesIO(answer.content))
        assert drawn.size == (70, 50)
        assert (drawn.getpixel((0, 0)) == (0, 0, 255)) == (kind == "inpaint")


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
