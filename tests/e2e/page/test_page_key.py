"""The page where keys are on: it asks once, keeps the key for the tab, and shows pictures by signed URLs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from core.storage import open_store
from service.auth import keys
from tests.e2e.browser import job_id, open_page
from tests.gateway import finish, png


@pytest.fixture
def token(redis: Redis) -> str:
    return keys.create(redis, "page", ["generate", "read"])[1]


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, token: str) -> Iterator[Page]:  # noqa: ARG001 (keys are on)
    with open_page(browser, str(client.base_url)) as opened:
        yield opened


def test_the_page_asks_for_a_key_and_then_works(page: Page, token: str, redis: Redis, folder: Path) -> None:
    expect(page.locator("dialog.api-key")).to_have_count(1)
    page.fill("#api-key", "lat_wrong_key")
    page.press("#api-key", "Enter")
    expect(page.locator("dialog.api-key .error")).to_contain_text("isn't known")
    page.fill("#api-key", token)
    page.press("#api-key", "Enter")
    expect(page.locator("#field-prompt")).to_be_visible()
    page.fill("#field-prompt", "red heart")
    page.press("#field-prompt", "Enter")
    expect(page.locator(".now")).to_contain_text("Waiting for a worker")
    finish(redis, open_store(str(folder / "data" / "objects")), job_id(page), png((64, 64)))
    picture = page.locator("img.picture")
    expect(picture).to_be_visible()
    assert "signature=" in str(picture.get_attribute("src"))
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    page.reload()
    expect(page.locator("#field-prompt")).to_be_visible()
    expect(page.locator("dialog.api-key")).to_have_count(0)


def test_the_description_of_the_api_asks_too(page: Page, token: str) -> None:
    page.goto(page.url.partition("#")[0] + "docs")
    page.fill("#api-key", token)
    page.press("#api-key", "Enter")
    expect(page.locator("#version")).not_to_be_empty()
    expect(page.locator("#get_model [role=tabpanel]")).to_contain_text("v1/models/painter")
    told = {"curl": "Bearer $LATENTD_API_KEY", "Python": "LATENTD_API_KEY", "JavaScript": "Bearer YOUR-KEY"}
    for language, place in told.items():
        page.locator("#list_loras").get_by_role("tab", name=language).click()
        program = page.locator("#list_loras [role=tabpanel]").inner_text()
        assert place in program
        assert token not in program
        if language == "JavaScript":
            assert page.evaluate(f"async () => {{ {program.replace('YOUR-KEY', token)} return answer.status; }}") == 200
        else:
            command = ["bash", "-c"] if language == "curl" else [sys.executable, "-c"]
            environment = os.environ | {"LATENTD_API_KEY": token}
            said = subprocess.run([*command, program], env=environment, capture_output=True, timeout=60, check=True)
            assert b"items" in said.stdout
