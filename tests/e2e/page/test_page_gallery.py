"""The gallery of a page that lies open: jobs of older pages and of other tabs, days that pass, how often it asks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect
from redis import Redis

from contract.redis_keys import events_key, job_key
from core.storage import open_store
from tests.e2e.browser import job_id, open_page
from tests.gateway import finish, png

PAGE = 24  # jobs that the gallery reads at once
MOST_A_MINUTE = 35  # of a key's 60
REFRESH_S = 6
HIDDEN = "(away) => Object.defineProperty(document, 'hidden', { get: () => away, configurable: true })"
RETURN = "dispatchEvent(new Event('focus'))"


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    """A page whose clock tests move on, which goes on by itself, too."""
    with open_page(browser, str(client.base_url)) as opened:
        opened.clock.install()
        opened.reload()
        expect(opened.locator("#submit")).to_be_visible()
        yield opened


def stop(page: Page) -> None:
    """Let time go on by `pass_time` alone, however long the rest of a test takes."""
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 5)


def pass_time(page: Page, seconds: int) -> list[str]:
    """Let a page's timers be due, second by second, and answer them; what the service was asked for meanwhile."""
    asked: list[str] = []

    def note(request: Request) -> None:
        path = urlsplit(request.url).path
        if path.startswith("/v1/") and not path.startswith("/v1/images"):
            asked.append(path)

    page.on("request", note)
    for _ in range(seconds):
        page.clock.run_for(1000)
        page.evaluate("fetch('livez').then(() => fetch('livez'))")
    page.remove_listener("request", note)
    return asked


def show_all(page: Page, count: int) -> None:
    page.locator(".choice", has_text="All").click()
    expect(page.locator(".history .thumb")).to_have_count(count)


def send(page: Page) -> str:
    page.fill("#field-prompt", "red heart")
    page.click("#submit")
    expect(page.locator(".now")).to_be_visible()
    return job_id(page)


def test_jobs_of_older_pages_are_looked_at_until_they_have_ended(
    page: Page, client: httpx2.Client, redis: Redis, folder: Path
) -> None:
    old = [client.post("/v1/txt2img", json={"prompt": f"old {k}"}).json()["id"] for k in range(3)]
    show_all(page, 3)
    store = open_store(str(folder / "data" / "objects"))
    for _ in range(PAGE):
        finish(redis, store, client.post("/v1/txt2img", json={"prompt": "newer"}).json()["id"], png((64, 64)))
    page.evaluate(RETURN)
    expect(page.locator(".history .thumb")).to_have_count(PAGE + 3)
    for job in old[:2]:
        finish(redis, store, job, png((64, 64)))
    client.delete(f"/v1/jobs/{old[2]}")
    client.delete(f"/v1/jobs/{old[2]}?purge=true")
    stop(page)
    pass_time(page, 3 * REFRESH_S)
    expect(page.locator(".history .thumb img")).to_have_count(PAGE + 2)
    expect(page.locator(".history .thumb")).to_have_count(PAGE + 2)
    pass_time(page, REFRESH_S)
    assert [path for path in pass_time(page, 3 * REFRESH_S) if "/jobs" in path] == []


def test_jobs_that_were_made_elsewhere_appear_on_return_and_more_shows_those_between(
    page: Page, client: httpx2.Client
) -> None:
    client.post("/v1/txt2img", json={"prompt": "old"})
    show_all(page, 1)
    for _ in range(PAGE + 5):
        client.post("/v1/txt2img", json={"prompt": "by a script"})
    page.evaluate(RETURN)
    expect(page.locator(".history .thumb")).to_have_count(PAGE + 1)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".history .thumb")).to_have_count(PAGE + 6)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()


@pytest.mark.parametrize(("status", "later"), [(503, REFRESH_S), (429, 20)])
def test_a_read_that_fails_is_tried_again_when_the_service_says(
    page: Page, client: httpx2.Client, redis: Redis, folder: Path, status: int, later: int
) -> None:
    job = client.post("/v1/txt2img", json={"prompt": "red heart"}).json()["id"]
    finish(redis, open_store(str(folder / "data" / "objects")), job, png((64, 64)))
    headers = {"Retry-After": str(later)} if status == 429 else {}
    problem = {"title": "Not now", "status": status, "detail": "Come back later."}
    stop(page)
    page.route("**/v1/jobs?*", lambda route: route.fulfill(status=status, headers=headers, json=problem), times=1)
    page.locator(".choice", has_text="All").click()
    expect(page.locator("#history > .help")).to_have_text("Come back later.")
    assert "/v1/jobs" not in pass_time(page, later - 3)
    pass_time(page, 5)
    expect(page.locator(".history .thumb")).to_have_count(1)
    expect(page.locator("#history > .help")).to_be_hidden()


def test_days_are_called_by_what_they_are_when_they_are_looked_at(page: Page, client: httpx2.Client) -> None:
    client.post("/v1/txt2img", json={"prompt": "red heart"})
    show_all(page, 1)
    expect(page.locator(".history h3")).to_have_text("Today")
    page.clock.set_system_time(datetime.now(UTC) + timedelta(days=1))
    page.evaluate(RETURN)
    expect(page.locator(".history h3")).to_have_text("Yesterday")


@pytest.mark.parametrize("running", [False, True], ids=["waits", "runs"])
def test_a_watched_job_leaves_room_in_a_keys_minute(page: Page, redis: Redis, *, running: bool) -> None:
    job = send(page)
    stop(page)
    pass_time(page, 2)  # what sending it asks for
    asked: list[str] = []
    if running:
        redis.hset(job_key(job), mapping={"status": "running", "started_at": datetime.now(UTC).isoformat()})
    for step in range(60):
        if running:
            redis.xadd(events_key(job), {"type": "step", "data": f'{{"step": {step}, "steps": 1000}}'})
            expect(page.locator(".numbers .count")).to_have_text(f"Step {step} of 1000")
        asked += pass_time(page, 1)
    looks = asked.count(f"/v1/jobs/{job}")
    assert len(asked) <= MOST_A_MINUTE, asked
    assert looks >= (4 if running else 12), "the predicted end moves, and the place in the queue"
    assert looks <= (8 if running else 18)


def test_a_hidden_tab_reads_neither_models_nor_gallery_until_it_is_seen_again(page: Page) -> None:
    send(page)
    stop(page)
    page.evaluate(HIDDEN, True)
    pass_time(page, 2)
    asked = pass_time(page, 30)
    assert not {"/v1/models", "/v1/jobs"} & set(asked)
    page.evaluate(HIDDEN, False)
    with page.expect_request("**/v1/models"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    asked = pass_time(page, 2 * REFRESH_S)
    assert asked.count("/v1/jobs") > 1, "and goes on"


def test_what_is_asked_for_by_timer_waits_as_long_as_a_refusal_says(page: Page) -> None:
    job = send(page)
    stop(page)
    refused: list[str] = []

    def refuse(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=429, headers={"Retry-After": "40"})

    paths = ("/v1/models", "/v1/jobs", f"/v1/jobs/{job}")
    page.route(lambda url: urlsplit(url).path in paths, refuse)
    pass_time(page, 12)
    assert len(refused) == 3
    assert pass_time(page, 20) == []
    assert len(pass_time(page, 36)) == 3
