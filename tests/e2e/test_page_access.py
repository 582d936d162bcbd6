"""The page for everyone: no serious finding of axe, any width, keyboard alone, a small first load."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Response, expect
from redis import Redis

from tests.e2e.browser import choose_picture, job_id, open_page, unfold
from tests.gateway import png

FIRST_LOAD = 150_000  # bytes
SIZES = ((320, 640), (1024, 768), (2560, 1400))
AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
RUN = """async () => (await axe.run()).violations
  .filter(({ impact }) => impact === 'serious' || impact === 'critical')
  .map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])"""


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, str(client.base_url), reduced_motion="reduce") as opened:
        yield opened


def serious(page: Page) -> list[Any]:
    page.evaluate(AXE)
    found: list[Any] = page.evaluate(RUN)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    unfold(page)
    assert serious(page) == []
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    expect(page.locator("#mask")).to_be_visible()
    assert serious(page) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.get_by_role("button", name="Invert").is_visible()
    assert serious(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    page.click("#tab-txt2img")
    page.fill("#field-prompt", "red heart")
    page.click("#submit")
    expect(page.locator("#cancel")).to_be_visible()
    assert serious(page) == []
    page.click("#cancel")
    expect(page.locator(".ending")).to_be_visible()
    page.click("#shortcuts")
    assert serious(page) == []


def test_axe_finds_nothing_serious_in_the_description_of_the_api(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "docs")
    expect(page.locator("#version")).not_to_be_empty()
    assert serious(page) == []


def test_every_width_has_the_picture_and_the_button(page: Page) -> None:
    expect(page.locator("#submit")).to_be_visible()
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in ("#submit", "#field-prompt", ".welcome h2"):
            expect(page.locator(part)).to_be_in_viewport()


def test_a_phone_has_the_form_in_a_sheet_that_keeps_focus(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#rail-toggle")
    expect(page.locator("#field-seed")).to_be_visible()
    assert page.evaluate("document.querySelector('#stage').inert")
    page.keyboard.press("Escape")
    expect(page.locator("#field-seed")).to_be_hidden()
    expect(page.locator("#rail-toggle")).to_be_focused()
    page.fill("#field-prompt", "red heart on a navy background " * 20)
    page.click("#submit")
    expect(page.locator("#cancel")).to_be_in_viewport()
    assert page.evaluate("document.querySelector('#stage').scrollWidth") <= 390


def test_a_picture_is_asked_for_by_keyboard_alone(page: Page) -> None:
    expect(page.locator("#submit")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#field-prompt")).to_be_focused()
    page.keyboard.type("red heart")
    page.keyboard.press("Control+Enter")
    job_id(page)
    expect(page.locator(".now")).to_contain_text("Waiting")
    page.keyboard.press("Alt+2")
    expect(page.locator("#tab-inpaint")).to_have_attribute("aria-selected", "true")
    page.locator("#tab-inpaint").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-upscale")).to_be_focused()
    page.keyboard.press("g")
    expect(page.locator("#search")).to_be_focused()


def test_the_first_load_is_small_and_every_module_of_it_is_asked_for_at_once(browser: Browser, page: Page) -> None:
    answers: list[Response] = []
    with browser.new_context() as fresh:
        other = fresh.new_page()
        other.on("response", lambda answer: answers.append(answer))
        other.goto(page.url.partition("#")[0])
        expect(other.locator("#submit")).to_be_visible()
        sizes = {answer.url: answer.request.sizes()["responseBodySize"] for answer in answers if answer.ok}
        preloaded = other.locator("link[rel=modulepreload]").evaluate_all("(all) => all.map((link) => link.href)")
    assert sum(sizes.values()) <= FIRST_LOAD, sizes
    assert {url for url in sizes if url.endswith(".js")} == set(preloaded)


def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    for _ in range(2):
        page.click("#theme")
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: dark")
    page.reload()
    assert page.evaluate("document.documentElement.style.colorScheme") == "dark"
