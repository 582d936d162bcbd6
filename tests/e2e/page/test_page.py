"""The page with a real gateway and worker on tiny models: create, repaint, upscale, cancel, reload, reconnect."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import choose_picture, copied, drop_file, job_id, open_page, unfold
from tests.gateway import png, same_pixels
from tests.service import Service
from tests.starved import allowance
from tests.tiny import write_tiny_inpaint, write_tiny_upscale

NO_SHIFT = 0.001  # of the score that counts as good up to 0.1
LONG = "1000"  # steps of jobs that are caught at work
LONG_MS = 120_000  # so many steps took 31 s beside other tests
WITHIN_S = 120.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    write_tiny_inpaint(models_dir / "tiny")
    write_tiny_upscale(models_dir / "tiny-upscale")
    with Service({"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}) as started:
        yield started


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with open_page(browser, service.url, accept_downloads=True) as opened:
        yield opened


# Shifts of the layout that nobody asked for: those within half a second of a click or key are answers to it.
WATCH_SHIFTS = """() => {
  window.shifts = [];
  const note = (list) => window.shifts.push(...list.getEntries().filter((entry) => !entry.hadRecentInput));
  new PerformanceObserver(note).observe({ type: 'layout-shift' });
}"""
SHIFTS = """() => window.shifts.map(({ value, sources }) =>
  [value, ...sources.map(({ node }) => node?.outerHTML?.slice(0, 80))])"""


def job_of(page: Page, service: Service) -> dict[str, Any]:
    job: dict[str, Any] = service.client.get(f"/v1/jobs/{job_id(page)}").json()
    return job


def picture_of(job: dict[str, Any], service: Service) -> Image.Image:
    return Image.open(io.BytesIO(service.image(job))).convert("RGB")


def create(page: Page, prompt: str, **fields: str) -> None:
    page.fill("#field-prompt", prompt)
    unfold(page)
    for name, value in fields.items():
        page.fill(f"#field-{name}", value)
    page.press("#field-prompt", "Enter")


def expect_shown(page: Page, picture: Image.Image) -> None:
    """The picture on the screen has the file's mean colour: it is loaded, whole and unveiled."""
    expect(page.locator(".picture")).to_have_js_property("complete", True)
    seen = Image.open(io.BytesIO(page.locator(".picture").screenshot())).convert("RGB")
    inner = (seen.width // 8, seen.height // 8, seen.width * 7 // 8, seen.height * 7 // 8)
    of_file = picture.resize(seen.size).crop(inner)
    assert ImageStat.Stat(seen.crop(inner)).mean == pytest.approx(ImageStat.Stat(of_file).mean, abs=6)


def test_a_prompt_becomes_a_picture(page: Page, service: Service, tmp_path: Path) -> None:
    expect(page.locator("#service")).to_have_text("Ready")
    create(page, "red heart", steps=LONG, seed="7")
    expect(page).to_have_title(re.compile(r"^\d+ % · latentd$"))
    expect(page.locator("link[rel=icon]")).to_have_attribute("href", re.compile("^data:image/png"))
    expect(page.locator("progress")).to_have_attribute("value", re.compile(r"\d+"))
    expect(page.locator(".preview")).to_have_attribute("src", re.compile("data:image/webp;base64,.+"))
    expect(page.locator("#download")).to_be_visible(timeout=LONG_MS)
    job = job_of(page, service)
    expect_shown(page, picture_of(job, service))
    expect(page.locator(".result > .facts")).to_contain_text("Seed7")
    expect(page.locator(".history .thumb img")).to_have_attribute("src", job["images"][0]["url"])
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == service.image(job)
    assert download.value.suggested_filename.endswith(".png")


def test_several_pictures_and_a_cut_prompt(page: Page, service: Service) -> None:
    create(page, "red heart " * 40, num_images="3", steps="4")
    expect(page.locator(".tile")).to_have_count(3)
    expect(page.locator(".warnings summary")).to_contain_text("heart")
    urls = [image["url"] for image in job_of(page, service)["images"]]
    page.locator(".tile").nth(1).click()
    expect(page.locator(".picture")).to_have_attribute("src", urls[1])
    page.keyboard.press("ArrowRight")  # without a look for what hears it
    expect(page.locator(".picture")).to_have_attribute("src", urls[2])
    page.get_by_role("button", name="All pictures").click()
    expect(page.locator(".tile")).to_have_count(3)


def test_repainting_changes_nothing_outside_the_mask(page: Page, service: Service) -> None:
    create(page, "blue star", steps="4", seed="3")
    page.click("#use-inpaint")
    before = picture_of(service.client.get("/v1/jobs?limit=1").json()["items"][0], service)
    box = page.locator("#mask").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.4, steps=5)
    page.mouse.up()
    page.fill("#field-prompt", "red heart")
    page.click("#submit")
    expect(page.locator(".compare")).to_be_visible()
    job = job_of(page, service)
    after = picture_of(job, service)
    assert (job["kind"], after.size, job["request"]["mask_mode"]) == ("inpaint", before.size, "white")
    changed = ImageChops.difference(before, after).getbbox()
    assert changed is not None
    # A stroke of a sixth of 64 px from (19.2, 25.6) to (38.4, 25.6), give or take half a pixel.
    left, top, right, bottom = changed
    assert left >= 12
    assert top >= 19
    assert right <= 46
    assert bottom <= 33


def run_copied(command: str, job: dict[str, Any], folder: Path, format_: str = "png") -> bytes:
    """What a copied curl saves, run in `folder`."""
    subprocess.run(["/bin/sh", "-c", command], cwd=folder, check=True)
    return (folder / f"{job['id']}-0.{format_}").read_bytes()


def test_an_upload_is_enlarged_and_compared(page: Page, service: Service, tmp_path: Path) -> None:
    page.click("#tab-upscale")
    (tmp_path / "image.png").write_bytes(png((20, 14)))
    choose_picture(page, "small.png", png((20, 14)))
    expect(page.locator("figcaption")).to_have_text("20 × 14 becomes 80 × 56")
    page.click("#submit")
    divider = page.locator(".divider")
    divider.focus()
    divider.press("Home")
    assert page.locator(".compare").evaluate("(node) => node.style.getPropertyValue('--at')") == "0%"
    assert picture_of(job_of(page, service), service).size == (80, 56)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    job = job_of(page, service)
    assert same_pixels(run_copied(copied(page, "curl"), job, tmp_path), service.image(job))
    page.reload()
    expect(page.locator(".divider")).to_be_visible()
    expect(page.locator("#tab-upscale")).to_have_attribute("aria-selected", "true")


# Whether the connection was ever said to be lost: another gateway may be there before a test looks.
WATCH_NOTICE = """() => new MutationObserver(() => {
  window.noticed ||= document.querySelector('.notice')?.checkVisibility();
}).observe(document, { childList: true, subtree: true, attributes: true })"""
PAINTED_OVER = """() => {
  const [base, cover] = [".running .base", ".running .cover"].map((part) => document.querySelector(part));
  return base?.checkVisibility() && cover && getComputedStyle(cover).maskImage;
}"""


def shown_while_running(page: Page, pictures: int) -> list[str]:
    """The previews of all tiles, as soon as each has one, while the job runs."""
    seen = page.wait_for_function(
        """(count) => {
          const seen = [...document.querySelectorAll(".running .preview")].map(({ src }) => src);
          return seen.length === count && seen.every((src) => src.startsWith("data:image/webp;base64,")) && seen;
        }""",
        arg=pictures,
    )
    previews: list[str] = seen.json_value()
    return previews


def test_each_tile_shows_its_own_picture_while_it_is_made(page: Page, service: Service) -> None:
    create(page, "red heart", num_images="4", steps=LONG)
    assert len(set(shown_while_running(page, 4))) == 4
    expect(page.locator(".tile")).to_have_count(4, timeout=LONG_MS)

    page.locator(".tile").first.click()
    page.click("#use-inpaint")
    page.locator(".choice", has_text="Rectangle").click()
    page.get_by_role("button", name="By numbers").click()
    page.get_by_role("button", name="Add rectangle").click()
    page.fill("#field-prompt", "blue star")
    unfold(page)
    page.fill("#field-num_images", "4")
    page.fill("#field-steps", LONG)
    page.click("#submit")
    assert len(set(shown_while_running(page, 4))) == 4
    assert page.locator(".running .base").count() == 4, "each over the picture that is repainted"
    masks = page.locator(".cover").evaluate_all("(all) => all.map((node) => getComputedStyle(node).maskImage)")
    assert len(masks) == 4
    assert all(each.startswith("url(") for each in masks)
    page.click("#cancel")
    expect(page.locator(".ending")).to_contain_text("Canceled")
    assert job_of(page, service)["status"] == "canceled"


def test_a_running_job_is_canceled(page: Page, service: Service) -> None:
    create(page, "green cat", steps=LONG, num_images="4")
    expect(page.locator(".numbers .count")).to_contain_text("of 4000")
    page.click("#cancel")
    expect(page.locator(".ending")).to_contain_text("Canceled")
    assert job_of(page, service)["status"] == "canceled"
    page.click("#reuse")
    assert page.input_value("#field-steps") == LONG


@pytest.mark.timeout(600)
def test_a_job_survives_reloads_and_a_dead_gateway(page: Page, service: Service) -> None:
    create(page, "navy star", steps=LONG, seed="5", width="128", height="128")  # it outlasts a reload and a gateway
    expect(page.locator(".now")).to_have_text("Painting")
    job = job_id(page)
    page.reload()
    assert job_id(page) == job
    expect(page.locator("#field-prompt")).to_have_value("navy star")
    expect(page.locator(".now")).to_have_text("Painting")
    (gateway,) = [pid for pid in service.processes() if b"gateway" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    page.evaluate(WATCH_NOTICE)
    os.kill(gateway, signal.SIGKILL)
    page.wait_for_function("() => window.noticed")
    expect(page.locator("#download")).to_be_visible(timeout=2 * LONG_MS)
    page.reload()
    expect_shown(page, picture_of(job_of(page, service), service))


def test_a_newcomer_makes_repaints_enlarges_varies_reads_and_saves(
    page: Page, service: Service, tmp_path: Path
) -> None:
    allowed, began = allowance(os.getpid()), time.monotonic()  # of Chromium and the service, too
    create(page, "red heart", steps="30", seed="3")
    page.evaluate(WATCH_SHIFTS)
    download = page.locator("#download")
    expect(download).to_be_visible()
    shifts = page.evaluate(SHIFTS)
    assert sum(shift[0] for shift in shifts) < NO_SHIFT, shifts
    assert page.title() == "latentd"
    made = service.image(job_of(page, service))

    page.click("#use-inpaint")
    page.locator(".choice", has_text="Rectangle").click()
    page.get_by_role("button", name="By numbers").click()
    page.get_by_role("button", name="Add rectangle").click()
    page.fill("#field-prompt", "blue star")
    unfold(page)
    page.fill("#field-steps", "600")  # long enough to be seen, by who looks at each frame
    page.click("#submit")
    shown = page.wait_for_function(PAINTED_OVER)  # the picture, with noise where it is repainted
    assert shown.json_value().startswith("url(")
    expect(page.locator(".compare")).to_be_visible()
    before = page.locator(".compare")
    page.locator("#hold").dispatch_event("pointerdown")
    assert before.evaluate("(node) => node.style.getPropertyValue('--at')") == "100%"
    page.locator("#hold").dispatch_event("pointerup")
    assert before.evaluate("(node) => node.style.getPropertyValue('--at')") == "0%"

    page.click("#use-upscale")
    page.click("#submit")
    expect(page.locator(".divider")).to_have_value("50")
    assert picture_of(job_of(page, service), service).size == (256, 256)

    page.locator(".history .thumb").nth(2).click()
    expect(page.locator(".divider")).to_have_count(0)  # the stage shows it, and no more what was enlarged
    page.get_by_role("button", name="1:1").click()
    assert page.locator(".canvas").evaluate("(node) => node.getBoundingClientRect().width") == pytest.approx(64)
    page.get_by_role("button", name="Fit").click()
    page.click("#variations")
    expect(page.locator(".tile")).to_have_count(4)
    assert len(set(job_of(page, service)["request"]["seeds"])) == 4

    drop_file(page, "mine.png", made)
    page.click("#read-settings")
    expect(page.locator("#field-seed")).to_have_value("3")
    assert (page.input_value("#field-prompt"), page.input_value("#field-steps")) == ("red heart", "30")

    page.go_back()
    expect(page.locator(".tile")).to_have_count(4)
    page.click("#save-as summary")
    with page.expect_download() as saved:
        page.get_by_role("button", name="All 4 as ZIP").click()
    saved.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 4
    assert time.monotonic() - began - allowed() < WITHIN_S


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_calls_are_copied_that_make_the_picture_again(
    page: Page, service: Service, tmp_path: Path, format_: str
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    unfold(page)
    page.select_option("#field-output_format", format_)
    create(page, "it's a red heart", steps="4")
    expect(page.locator("#download")).to_be_visible()
    job = job_of(page, service)
    again = service.post("/v1/txt2img", **json.loads(copied(page, "JSON")))
    assert same_pixels(service.image(again), service.image(job))
    assert same_pixels(run_copied(copied(page, "curl"), job, tmp_path, format_), service.image(job))
    python = copied(page, "Python")
    assert """client.txt2img("it's a red heart", """ in python
    for program in (python, copied(page, "OpenAI call")):
        (tmp_path / "call.py").write_text(program)
        subprocess.run([sys.executable, "call.py"], cwd=tmp_path, check=True, timeout=WITHIN_S)
        made = tmp_path / f"{job['id']}-0.{format_}"
        assert same_pixels(made.read_bytes(), service.image(job))
        made.unlink()
    by_page = page.evaluate(f"async () => {{ {copied(page, 'JavaScript')} return picture.type; }}")
    assert by_page == f"image/{format_}"
