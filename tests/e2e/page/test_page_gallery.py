"""The gallery: search and filters, several jobs at once, and updates that leave focus where it is."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from core.storage import open_store
from tests.e2e.browser import open_page
from tests.gateway import finish, png

PROMPTS = ("red heart", "navy background", "a heart with stars")


@pytest.fixture
def jobs(client: httpx2.Client, redis: Redis, folder: Path) -> list[str]:
    """Three finished jobs and one that waits, oldest first."""
    store = open_store(str(folder / "data" / "objects"))
    ids = [client.post("/v1/txt2img", json={"prompt": prompt}).json()["id"] for prompt in PROMPTS]
    for job in ids:
        finish(redis, store, job, png((64, 64), colour=(len(job), 90, 30)))
    files = {"image": ("a.png", png(), "image/png")}
    return [*ids, client.post("/v1/upscale", files=files).json()["id"]]


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, jobs: list[str]) -> Iterator[Page]:  # noqa: ARG001 (they are there)
    with open_page(browser, str(client.base_url), accept_downloads=True) as opened:
        opened.locator(".choice", has_text="All").click()
        expect(opened.locator(".history .thumb")).to_have_count(4)
        yield opened


def test_prompts_are_searched_and_jobs_filtered(page: Page) -> None:
    thumbs = page.locator(".history .thumb")
    page.fill("#search", "HEART")
    expect(thumbs).to_have_count(2)
    page.fill("#search", "")
    expect(thumbs).to_have_count(4)
    page.select_option("#filter-kind", "upscale")
    expect(thumbs).to_have_count(1)
    page.select_option("#filter-kind", "")
    page.select_option("#filter-status", "succeeded")
    expect(thumbs).to_have_count(3)
    page.select_option("#filter-model", "upscaler")
    expect(page.locator(".history .help")).to_have_text("Nothing matches.")


def test_an_update_leaves_focus_where_it_is(page: Page, client: httpx2.Client) -> None:
    third = page.locator(".history .thumb").nth(2)
    third.focus()
    named = third.get_attribute("data-id")
    client.post("/v1/txt2img", json={"prompt": "newer"})
    expect(page.locator(".history .thumb")).to_have_count(5)
    assert page.evaluate("document.activeElement.dataset.id") == named


def test_selected_jobs_are_saved_compared_and_removed(
    page: Page, client: httpx2.Client, jobs: list[str], tmp_path: Path
) -> None:
    page.click("#select")
    picks = page.locator(".pick")
    picks.nth(1).check()
    expect(page.locator("#selected-compare")).to_be_disabled()
    picks.nth(3).check()
    with page.expect_download() as download:
        page.click("#selected-zip")
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{jobs[2]}-0.png", f"{jobs[0]}-0.png"]
        stored = client.get(f"/v1/images/{jobs[0]}-0").content
        assert archive.read(f"{jobs[0]}-0.png") == stored
    page.click("#selected-compare")
    expect(page.locator(".pair .compare")).to_be_visible()
    page.click("#selected-delete")
    page.click("#confirm-delete")
    expect(page.locator(".history .thumb")).to_have_count(2)
    assert client.get(f"/v1/jobs/{jobs[0]}").status_code == 410
