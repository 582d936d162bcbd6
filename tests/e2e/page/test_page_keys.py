"""The page where keys are on: it asks for one, once, and its signed pictures outlive their addresses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis

from contract.redis_keys import rate_key
from core.storage import open_store
from service.auth import keys
from tests.e2e.browser import job_id, open_page, serious
from tests.gateway import finish, png


@pytest.fixture
def token(redis: Redis) -> str:
    return keys.create(redis, "page", ["generate", "read"])[1]


@pytest.fixture
def locked(browser: Browser, client: httpx2.Client, token: str) -> Iterator[Page]:  # noqa: ARG001 (keys are on)
    with open_page(browser, str(client.base_url), reduced_motion="reduce") as opened:
        yield opened


def test_the_page_asks_for_a_key_and_then_works(locked: Page, token: str, redis: Redis, folder: Path) -> None:
    expect(locked.locator("dialog.api-key")).to_have_count(1)
    expect(locked.locator("#api-key")).to_be_focused()
    locked.keyboard.press("Escape")
    expect(locked.locator(".ending")).to_contain_text("A key is needed")
    locked.get_by_role("button", name="Enter it").click()
    expect(locked.locator("#api-key")).to_be_focused()
    assert serious(locked) == []
    locked.fill("#api-key", "lat_wrong_key")
    locked.press("#api-key", "Enter")
    expect(locked.locator("dialog.api-key .error")).to_contain_text("Whoever runs the service can make another")
    for scheme, width in (("dark", 320), ("light", 1280)):
        locked.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        locked.set_viewport_size({"width": width, "height": 700})
        assert serious(locked) == []
        assert locked.evaluate("document.documentElement.scrollWidth") <= width
    locked.fill("#api-key", token)
    locked.press("#api-key", "Enter")
    expect(locked.locator("#field-prompt")).to_be_visible()
    locked.get_by_role("button", name="Licence and sources").click()
    expect(locked.get_by_role("dialog")).to_contain_text("Licence: Apache-2.0")
    locked.keyboard.press("Escape")
    locked.fill("#field-prompt", "red heart")
    locked.press("#field-prompt", "Enter")
    expect(locked.locator(".now")).to_contain_text("Waiting for a worker")
    finish(redis, open_store(str(folder / "data" / "objects")), job_id(locked), png((64, 64)))
    picture = locked.locator("img.picture")
    expect(picture).to_be_visible()
    assert "signature=" in str(picture.get_attribute("src"))
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    locked.reload()
    expect(locked.locator("#field-prompt")).to_be_visible()
    expect(locked.locator("dialog.api-key")).to_have_count(0)


def test_pictures_of_a_page_that_lies_open_for_hours_are_asked_for_anew(
    locked: Page, token: str, client: httpx2.Client, redis: Redis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    job = client.post("/v1/txt2img", json={"prompt": "red heart"}, headers=headers).json()["id"]
    finish(redis, open_store(str(folder / "data" / "objects")), job, png((64, 64)))
    monkeypatch.setattr("service.auth.signing.PERIOD_S", -3600)  # their addresses have run out
    locked.fill("#api-key", token)
    held: list[Route] = []
    locked.route("**/v1/images/**", lambda route: held.append(route))
    locked.press("#api-key", "Enter")
    locked.locator(".choice", has_text="All").click()
    locked.locator(f"a[data-id='{job}']").click()
    expect(locked.locator("#download")).to_be_visible()
    while not held:
        locked.wait_for_timeout(20)
    monkeypatch.undo()
    locked.unroute("**/v1/images/**")  # lets them go on
    width = "image => image.complete && image.naturalWidth"
    for shown in (locked.locator("img.picture"), locked.locator(f"a[data-id='{job}'] img")):
        while shown.evaluate(width) != 64:
            locked.wait_for_timeout(20)
    for save in (locked.locator("#download"), locked.locator("#save-as .menu button", has_text="PNG")):
        if not save.is_visible():
            locked.click("#save-as summary")
        with locked.expect_download() as saved:
            save.click()
        with Image.open(saved.value.path()) as picture:
            assert picture.size == (64, 64)


def test_a_picture_is_saved_where_the_machines_clock_is_ahead(
    browser: Browser, client: httpx2.Client, token: str, redis: Redis, folder: Path
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    job = client.post("/v1/txt2img", json={"prompt": "red heart"}, headers=headers).json()["id"]
    finish(redis, open_store(str(folder / "data" / "objects")), job, png((64, 64)))
    ahead = "const now = Date.now; Date.now = () => now() + 10 * 3600 * 1000;"
    with open_page(browser, f"{client.base_url}#job={job}", ahead, reduced_motion="reduce") as page:
        page.fill("#api-key", token)
        page.press("#api-key", "Enter")
        with page.expect_download() as saved:
            page.click("#download")
        with Image.open(saved.value.path()) as picture:
            assert picture.size == (64, 64)


@pytest.mark.parametrize("known", [True, False])
def test_an_answer_that_was_late_asks_for_no_second_key(locked: Page, token: str, *, known: bool) -> None:
    held: list[Route] = []
    locked.route("**/v1/loras", lambda route: held.append(route) if not held else route.continue_())
    locked.reload()
    expect(locked.locator("#api-key")).to_be_focused()
    if known:
        locked.fill("#api-key", token)
    locked.keyboard.press("Enter" if known else "Escape")
    expect(locked.locator("dialog.api-key")).to_have_count(0)
    with locked.expect_response(lambda answer: answer.status == 401 and "/loras" in answer.url) as late:
        held[0].continue_()
    late.value.finished()
    expect(locked.locator("#field-prompt" if known else ".ending")).to_be_visible()
    expect(locked.locator("dialog.api-key")).to_have_count(0)


def test_a_job_that_ends_while_its_key_may_ask_for_nothing_is_shown_later(
    locked: Page, redis: Redis, folder: Path
) -> None:
    key, token = keys.create(redis, "hasty", ["generate", "read"], requests_per_minute=1000)
    locked.fill("#api-key", token)
    locked.press("#api-key", "Enter")
    locked.fill("#field-prompt", "red heart")
    locked.press("#field-prompt", "Enter")
    expect(locked.locator(".now")).to_contain_text("Waiting for a worker")
    redis.set(rate_key(key.id), time.time() + 70)  # ten seconds above what a burst may owe
    with locked.expect_response(lambda answer: answer.status == 429 and "/jobs/" in answer.url):
        finish(redis, open_store(str(folder / "data" / "objects")), job_id(locked), png((64, 64)))
    expect(locked.locator(".notice")).to_be_visible()  # not only a look in between was refused: the end was
    redis.delete(rate_key(key.id))
    expect(locked.locator("img.picture")).to_be_visible()


def test_the_description_of_the_api_asks_too(locked: Page, token: str) -> None:
    locked.goto(locked.url.partition("#")[0] + "docs")
    locked.fill("#api-key", token)
    locked.press("#api-key", "Enter")
    expect(locked.locator("#version")).not_to_be_empty()
    with locked.expect_download() as saved:
        locked.get_by_role("link", name="openapi.json").click()
    assert "/v1/txt2img" in json.loads(saved.value.path().read_text("utf-8"))["paths"]
    expect(locked.locator("#get_model [role=tabpanel]")).to_contain_text("v1/models/painter")
    told = {"curl": "Bearer $LATENTD_API_KEY", "Python": "LATENTD_API_KEY", "JavaScript": "Bearer YOUR-KEY"}
    for language, place in told.items():
        locked.locator("#list_loras").get_by_role("tab", name=language).click()
        program = locked.locator("#list_loras [role=tabpanel]").inner_text()
        assert place in program
        assert token not in program
        if language == "JavaScript":
            called = program.replace("YOUR-KEY", token)
            assert locked.evaluate(f"async () => {{ {called} return answer.status; }}") == 200
        else:
            command = ["bash", "-c"] if language == "curl" else [sys.executable, "-c"]
            environment = os.environ | {"LATENTD_API_KEY": token}
            said = subprocess.run([*command, program], env=environment, capture_output=True, timeout=60, check=True)
            assert b"items" in said.stdout
