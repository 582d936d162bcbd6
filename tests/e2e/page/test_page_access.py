"""The page for everyone: no serious finding of axe, any width, keyboard alone, a small first load."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Response, expect
from redis import Redis

from tests.e2e.browser import choose_picture, drop_file, job_id, open_page, serious, unfold
from tests.gateway import png

FIRST_LOAD = 150_000  # bytes
SIZES = ((320, 640), (1024, 768), (2560, 1400))
LOADS, INTERACTIVE_MS = 6, 1000
# When the form can be written to, in milliseconds after the page was asked for.
WATCH_FORM = """() => new MutationObserver((_, observer) => {
  if (document.querySelector('#form:not([hidden]) #field-prompt')) {
    window.interactive = performance.now();
    observer.disconnect();
  }
}).observe(document, { childList: true, subtree: true, attributes: true })"""


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, str(client.base_url), reduced_motion="reduce") as opened:
        yield opened


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


def test_axe_finds_nothing_serious_in_sheets_which_keep_focus(page: Page) -> None:
    opened = page.get_by_role("dialog")

    def check(close: str = "Close") -> None:
        expect(opened).to_be_visible()
        assert serious(page) == []
        for _ in range(3):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.matches('body, dialog, dialog *')")
        opened.get_by_role("button", name=close).click()
        expect(opened).to_have_count(0)

    page.click("#shortcuts")
    check()
    expect(page.locator("#shortcuts")).to_be_focused()
    drop_file(page, "mine.png", png((40, 30)))
    check("Repaint a part")
    page.get_by_role("button", name="By numbers").click()
    check()
    page.click("#tab-txt2img")
    page.fill("#field-prompt", "red heart")
    page.click("#submit")
    page.click("#cancel")
    page.click("#select")
    page.locator(".pick").first.check()
    page.click("#selected-delete")
    check("Close")


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


def test_the_form_can_be_written_to_within_a_second(browser: Browser, page: Page) -> None:
    times: list[float] = []
    while len(times) < LOADS and min(times, default=INTERACTIVE_MS + 1) > INTERACTIVE_MS:  # others may have the machine
        with browser.new_context() as fresh:
            other = fresh.new_page()
            other.add_init_script(f"({WATCH_FORM})()")
            other.goto(page.url.partition("#")[0])
            other.wait_for_function("() => window.interactive")
            times.append(other.evaluate("window.interactive"))
    assert min(times) <= INTERACTIVE_MS, times


def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    for _ in range(2):
        page.click("#theme")
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: dark")
    page.reload()
    assert page.evaluate("document.documentElement.style.colorScheme") == "dark"
