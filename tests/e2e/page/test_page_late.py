"""What comes late changes nothing that was opened since: answers, pictures, modules; what doesn't come is asked for."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis

from core.storage import open_store
from tests.e2e.browser import canvas_pixels, choose_picture, draft_kept, job_id, open_page
from tests.gateway import finish, png

PROMPTS = ("red heart", "a heart with stars")

# The calls and modules that were let go have come, and so has what this browser keeps and what is drawn after them.
SETTLED = """async (modules) => {
  await fetch('livez');
  for (const module of modules) await import(module);
  await (await import('./js/lib/keep.js')).sourceOf('none');
  for (let k = 0; k < 3; k += 1) await new Promise((next) => requestAnimationFrame(next));
}"""
LOST_MASK = """async () => {
  const { draft, keepDraft } = await import('./js/lib/keep.js');
  await keepDraft({ ...(await draft()), operations: [{ type: 'file', file: new File(['none'], 'mask.png') }] });
}"""

# What came of posts: an answer that is lost, one that breaks off, one that doesn't know.
LOSE = """() => {
  const { fetch } = window;
  const ends = [
    () => { throw new TypeError('Failed to fetch'); },
    (made) => new Response(new ReadableStream({ pull: (body) => body.error(new TypeError('network error')) }), made),
    () => Response.json({ title: 'Nobody knows.' }, { status: 503 }),
  ];
  window.sent = [];
  window.fetch = async (path, options) => {
    const answer = await fetch(path, options);
    if (options?.method !== 'POST' || path.includes('dry_run')) return answer;
    window.sent.push(options.headers['Idempotency-Key']);
    return ends.length ? ends.shift()(answer) : answer;
  };
}"""


@contextmanager
def late(page: Page, path: str, answer: Callable[[Route], None] = Route.continue_) -> Iterator[list[Route]]:
    """What is asked for at `path` waits for the end of the block, and is then answered to the end."""
    held: list[Route] = []
    page.route(path, lambda route: held.append(route))
    with page.expect_event("requestfinished", lambda request: any(request == route.request for route in held)):
        yield held
        while not held:
            page.wait_for_timeout(20)
        for route in held:
            answer(route)
    page.unroute(path)


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, str(client.base_url), accept_downloads=True) as opened:
        yield opened


@pytest.fixture
def jobs(page: Page, client: httpx2.Client, redis: Redis, folder: Path) -> list[str]:
    """Two jobs that are done, oldest first, in the page's gallery."""
    store = open_store(str(folder / "data" / "objects"))
    ids = [client.post("/v1/txt2img", json={"prompt": prompt}).json()["id"] for prompt in PROMPTS]
    for job in ids:
        finish(redis, store, job, png((64, 64)))
    page.locator(".choice", has_text="All").click()
    expect(page.locator(".history .thumb")).to_have_count(2)
    return ids


def expect_open(page: Page, job: str, prompt: str) -> None:
    expect(page.locator(".result figcaption q")).to_have_text(prompt)
    assert job_id(page) == job


def test_what_comes_for_a_job_that_was_left_takes_neither_stage_nor_address(page: Page, jobs: list[str]) -> None:
    first, second = (page.locator(f"a[data-id='{job}']") for job in jobs)
    with late(page, f"**/v1/jobs/{jobs[0]}"):
        first.click()
        second.click()
        expect_open(page, jobs[1], PROMPTS[1])
    page.evaluate(SETTLED, [])
    expect_open(page, jobs[1], PROMPTS[1])

    with late(page, f"**/v1/jobs/{jobs[0]}", lambda route: route.fulfill(status=410, json={})):
        first.click()
        page.click("#tab-upscale")
    page.evaluate(SETTLED, [])
    expect(page.locator(".drop-title")).to_have_text("A picture to enlarge")
    assert "job=" not in page.url

    page.route(f"**/v1/jobs/{jobs[0]}", lambda route: route.abort())
    first.click()
    expect(page.locator(".ending")).to_contain_text("This job can't be shown")
    page.unroute(f"**/v1/jobs/{jobs[0]}")
    first.click()  # the address says it already
    expect_open(page, jobs[0], PROMPTS[0])

    with late(page, f"**/v1/images/{jobs[0]}-0*download*"):
        page.click("#use-upscale")
        second.click()
        page.click("#tab-inpaint")
        second.click()
        expect_open(page, jobs[1], PROMPTS[1])
    expect(page.locator("#submit")).to_be_enabled()
    expect_open(page, jobs[1], PROMPTS[1])
    expect(page.locator("#tab-inpaint")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".picture-row .facts")).to_contain_text("None yet")

    page.click("#select")
    for pick in page.locator(".pick").all():
        pick.check()
    with late(page, "**/js/stage/pair.js"):
        page.click("#selected-compare")
        first.click()
        expect_open(page, jobs[0], PROMPTS[0])
    page.evaluate(SETTLED, ["./js/stage/pair.js"])
    expect_open(page, jobs[0], PROMPTS[0])


def test_a_selection_is_kept_while_its_module_or_the_list_is_on_its_way(
    page: Page, jobs: list[str], tmp_path: Path
) -> None:
    page.click("#select")
    picks = page.locator(".pick")
    picks.first.check()
    with page.expect_download() as download, late(page, "**/js/stage/files.js"):
        page.click("#selected-zip")
        page.click("#select")
    download.value.save_as(tmp_path / "one.zip")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == [f"{jobs[1]}-0.png"]

    page.click("#select")
    picks.first.check()
    with late(page, "**/v1/jobs?*") as held:
        page.fill("#search", "heart")
        while not held:
            page.wait_for_timeout(20)
        picks.last.check()
    expect(page.locator("#selected-compare")).to_be_enabled()
    expect(page.locator(".picked")).to_have_text("2 selected")


def test_a_look_at_a_job_that_comes_after_its_end_tells_nothing(page: Page, redis: Redis, folder: Path) -> None:
    looks: list[Route] = []

    def hold_first(route: Route) -> None:
        looks.append(route)
        if len(looks) > 1:
            route.continue_()

    page.route("**/v1/jobs/*", hold_first)
    page.fill("#field-prompt", "red heart")
    page.click("#submit")
    expect(page.locator(".now")).to_be_visible()
    while not looks:
        page.wait_for_timeout(20)
    waiting = looks[0].fetch()  # as it is now
    finish(redis, open_store(str(folder / "data" / "objects")), job_id(page), png((64, 64)))
    expect(page.locator("#download")).to_be_visible()
    looks[0].fulfill(response=waiting)
    page.evaluate(SETTLED, [])
    assert page.title() == "latentd"
    expect(page.locator("#announce")).to_have_text("Done")


def test_a_link_leaves_what_is_written_already_and_says_what_the_form_cant_take(
    page: Page, client: httpx2.Client, jobs: list[str]
) -> None:
    page.goto("about:blank")
    with late(page, f"**/v1/jobs/{jobs[0]}"):
        page.goto(f"{client.base_url}#job={jobs[0]}")
        page.fill("#field-prompt", "written meanwhile")
    expect_open(page, jobs[0], PROMPTS[0])
    page.evaluate(SETTLED, [])
    expect(page.locator("#field-prompt")).to_have_value("written meanwhile")

    def of_another_task(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"kind": "img2img"})

    page.route(f"**/v1/jobs/{jobs[1]}", of_another_task)
    page.locator(f"a[data-id='{jobs[1]}']").click()
    expect_open(page, jobs[1], PROMPTS[1])
    page.click("#reuse")
    expect(page.locator("#announce")).to_have_text("No installed model can do this task any more.")


def test_a_request_keeps_its_key_until_it_is_known_what_came_of_it(page: Page, client: httpx2.Client) -> None:
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    page.get_by_role("button", name="Invert").click()
    page.evaluate(LOSE)
    for said in ("The gateway doesn't answer.", "Nobody knows."):
        page.click("#submit")
        expect(page.locator("#problem")).to_contain_text(said)
    assert len(client.get("/v1/jobs").json()["items"]) == 1
    for _ in range(2):
        with page.expect_response(lambda answer: answer.status == 202):
            page.click("#submit")
        expect(page.locator("#submit")).to_be_enabled()
    first, *others = page.evaluate("window.sent")
    assert others[:3] == [first] * 3
    assert others[3:] != [first]
    assert len(client.get("/v1/jobs").json()["items"]) == 2


def test_a_file_that_has_gone_since_it_was_chosen_stops_no_other(page: Page, tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    gone.write_bytes(png((40, 30)))
    page.click("#tab-upscale")
    page.locator("#stage input[type=file]").set_input_files(gone)
    expect(page.locator("figcaption")).to_have_text("40 × 30 becomes 160 × 120")
    gone.unlink()
    page.click("#submit")
    expect(page.locator("#problem")).to_contain_text("The gateway doesn't answer.")
    kept = tmp_path / "kept.png"
    kept.write_bytes(png((20, 20)))
    page.locator("#row-image input[type=file]").set_input_files(kept)
    expect(page.locator("figcaption")).to_have_text("20 × 20 becomes 80 × 80")
    with page.expect_response(lambda answer: answer.status == 202):
        page.click("#submit")


def test_a_kept_picture_that_cant_be_brought_back_leaves_the_page_usable(page: Page) -> None:
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    page.get_by_role("button", name="Invert").click()
    draft_kept(page)
    page.route("**/js/mask/editor.js", lambda route: route.abort())
    page.reload()
    expect(page.locator("#submit")).to_be_visible()
    expect(page.locator("#announce")).to_have_text(re.compile("^Your picture comes back at your next visit, not now: "))
    page.unroute("**/js/mask/editor.js")
    page.reload()
    expect(page.locator("#mask")).to_be_visible()
    assert set(canvas_pixels(page, "#mask")[3::4]) == {255}
    address = page.url
    page.goto(address.partition("#")[0] + "docs")  # where nothing keeps the picture meanwhile
    page.evaluate(LOST_MASK)
    page.goto(address)
    expect(page.locator(".picture-row .facts")).to_contain_text("40 × 30")
    assert set(canvas_pixels(page, "#mask")[3::4]) == {0}
    expect(page.locator("#announce")).to_have_text("")  # it is kept without what was lost
