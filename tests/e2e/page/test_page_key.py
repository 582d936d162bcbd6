"""The page while its key expires or answers are late: nobody is interrupted, and what is newest is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis

from core.storage import open_store
from service.auth import keys
from tests.e2e.browser import job_id, laid_out, open_page, serious
from tests.gateway import finish, png

# Timers of the page that begin again and again do so 25 times as fast, and are counted by their milliseconds.
HURRY = """(() => {
  const { setInterval } = window;
  window.ticks = {};
  window.setInterval = (work, ms) => setInterval(() => {
    window.ticks[ms] = (window.ticks[ms] ?? 0) + 1;
    work();
  }, ms / 25);
})()"""
REFRESH_MS, POLL_MS = 10_000, 4000  # of the models, of the job that is shown


@pytest.fixture
def key(redis: Redis) -> tuple[str, str]:
    """Id and token."""
    made, token = keys.create(redis, "page", ["generate", "read"])
    return made.id, token


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, key: tuple[str, str]) -> Iterator[Page]:
    with open_page(browser, str(client.base_url), reduced_motion="reduce") as opened:
        opened.add_init_script(HURRY)
        opened.reload()
        enter(opened, key[1])
        expect(opened.locator("#field-prompt")).to_be_visible()
        yield opened


def enter(page: Page, token: str) -> None:
    page.fill("#api-key", token)
    page.press("#api-key", "Enter")
    expect(page.locator("dialog.api-key")).to_have_count(0)


def refused(page: Page, path: str) -> None:
    """Wait until a call whose address ends so was answered 401."""
    with page.expect_response(lambda answer: answer.status == 401 and answer.url.endswith(path)):
        pass


def ticks(page: Page, ms: int, more: int) -> None:
    """Wait until the page's timer of these milliseconds was due `more` times."""
    page.wait_for_function(f"(until) => window.ticks[{ms}] >= until", arg=page.evaluate(f"window.ticks[{ms}]") + more)


def hold(page: Page, pattern: str) -> list[Route]:
    """Hold back what is asked for from now on, until it is unrouted; something was."""
    held: list[Route] = []
    page.route(pattern, lambda route: held.append(route))
    while not held:
        page.wait_for_timeout(20)
    return held


def test_a_key_that_is_withdrawn_interrupts_nobody_and_the_next_action_asks(
    page: Page, key: tuple[str, str], redis: Redis, folder: Path
) -> None:
    dialog, head = page.locator("dialog.api-key"), page.locator("#service")
    page.route("**/events", lambda route: route.abort())
    page.fill("#field-prompt", "red heart")
    page.press("#field-prompt", "Enter")
    job = job_id(page)
    expect(page.locator(".now")).to_contain_text("Waiting for a worker")
    keys.revoke(redis, key[0])
    page.unroute("**/events")
    expect(head).to_contain_text("A key is needed")
    with page.expect_response(lambda answer: answer.status == 401 and "dry_run" in answer.url):
        page.locator("#field-prompt").press_sequentially(" on navy")
    for path in ("/events", f"/jobs/{job}", "/v1/models"):
        refused(page, path)
    expect(page.locator("#history > .help")).to_be_visible()  # the gallery was refused, too
    expect(dialog).to_have_count(0)
    expect(page.locator("#field-prompt")).to_be_focused()
    expect(page.locator("#field-prompt")).to_have_value("red heart on navy")
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        expect(head.get_by_role("button")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious(page) == []
    page.click("#submit")
    expect(page.locator("#api-key")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#problem")).to_be_visible()
    ticks(page, POLL_MS, 2)
    expect(dialog).to_have_count(0)
    head.get_by_role("button", name="Enter it").focus()
    ticks(page, REFRESH_MS, 2)
    page.keyboard.press("Enter")  # the button is the same as before
    enter(page, keys.create(redis, "other", ["admin"])[1])
    expect(head).to_have_text("No worker yet: jobs wait")
    expect(page.locator("#history > .help")).to_be_hidden()
    expect(page.locator("#cost")).to_contain_text("1 picture")
    finish(redis, open_store(str(folder / "data" / "objects")), job, png((64, 64)))
    expect(page.locator("img.picture")).to_be_visible()


def test_what_is_asked_for_by_timer_is_asked_for_once_until_it_is_answered(page: Page) -> None:
    page.fill("#field-prompt", "red heart")
    page.press("#field-prompt", "Enter")
    job = job_id(page)
    for path, ms in (("/v1/models", REFRESH_MS), (f"/v1/jobs/{job}", POLL_MS)):
        held = hold(page, f"**{path}")
        ticks(page, ms, 5)
        assert len(held) == 1
        with page.expect_response(f"**{path}"):
            page.unroute(f"**{path}")  # lets it go on
        with page.expect_response(f"**{path}"):
            pass  # and the next ones come


def test_an_older_answer_takes_no_model_away_that_a_newer_one_has(page: Page) -> None:
    held: list[Route] = []
    page.click("#tab-upscale")
    page.evaluate("window.here = true")
    page.route("**/v1/models", lambda route: held.append(route), times=1)
    for _ in range(2):
        page.evaluate("dispatchEvent(new Event('focus'))")
    with page.expect_response("**/v1/models"):
        pass
    answer = held[0].fetch()
    old = answer.json()
    old["items"] = [card for card in old["items"] if "upscale" not in card["tasks"]]
    with page.expect_response("**/v1/models") as late:
        held[0].fulfill(response=answer, json=old)
    late.value.finished()
    laid_out(page)
    expect(page.locator("#tab-upscale")).to_have_attribute("aria-selected", "true")
    assert page.evaluate("window.here") is True
