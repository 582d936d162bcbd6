"""The page without any worker: waiting, problems beside fields, mask editor, lost connections, gallery."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from contract.redis_keys import events_key, job_key
from core.storage import open_store
from service.jobs import streams
from tests.e2e.browser import canvas_pixels, choose_picture, job_id, open_page, unfold
from tests.gateway import finish, png, running, settings_for
from tests.redis_server import RedisServer
from tests.times import cells, publish

# How many pictures are asked for at once where nine are saved.
AT_ONCE = """async ([image]) => {
  const { saveZip } = await import('./js/stage/files.js');
  const { fetch } = window;
  let [now, most] = [0, 0];
  window.fetch = async (path, options) => {
    if (!path.includes('download')) return fetch(path, options);
    most = Math.max(most, ++now);
    return fetch(path, options).finally(() => { now -= 1; });
  };
  await saveZip(Array(9).fill(image), 'nine');
  window.fetch = fetch;
  return most;
}"""
OTHERS = 5 * 24 + 1  # jobs: more than the gallery reads at once to find some of its own
PROMPTS = ("red heart", "navy background", "a heart with stars")

UNNAMED = """() => [...document.querySelectorAll('button, input, select, textarea, a, canvas[tabindex], progress')]
  .filter((node) => node.checkVisibility() && !node.closest('[aria-hidden=true]'))
  .filter((node) => !(node.labels?.length || node.ariaLabel || node.textContent.trim()))
  .map((node) => node.outerHTML)"""


# Headless Chromium has no hidden tabs: the page is told that it is one. What it shows is a notification of Chromium's.
WATCH_NOTIFICATIONS = """() => {
  window.shown = [];
  Object.defineProperty(document, 'hidden', { get: () => window.away === true });
  const { Notification } = window;
  window.Notification = class extends Notification {
    constructor(title, options) {
      super(title, options);
      if (title === 'A job was canceled') throw new TypeError('Illegal constructor'); // as on Android
      this.addEventListener('show', () => window.shown.push([title, options.body]));
    }
  };
}"""


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, str(client.base_url)) as opened:
        yield opened


def painted(page: Page) -> float:
    """Share of the mask that is inside."""
    alphas = canvas_pixels(page, "#mask")[3::4]
    return sum(alpha > 127 for alpha in alphas) / len(alphas)


def test_a_job_waits_for_a_worker_and_can_be_canceled(page: Page, client: httpx2.Client) -> None:
    expect(page.locator("#service")).to_have_text("No worker yet: jobs wait")
    page.fill("#field-prompt", "red heart")
    unfold(page)
    page.select_option("#field-priority", "bulk")
    page.fill("#field-deadline_ms", "86400000")
    page.press("#field-prompt", "Enter")
    expect(page.locator(".now")).to_contain_text("Waiting for a worker")
    job = client.get(f"/v1/jobs/{job_id(page)}").json()
    assert (job["status"], job["request"]["prompt"], job["request"]["preview_every"]) == ("queued", "red heart", 3)
    assert (job["request"]["priority"], job["request"]["deadline_ms"]) == ("bulk", 86_400_000)
    page.click("#cancel")
    expect(page.locator(".ending")).to_contain_text("Canceled")
    expect(page.locator(".history .thumb")).to_have_text("canceled")


def test_fields_follow_kind_and_card(page: Page) -> None:
    expect(page.locator("#field-prompt")).to_be_visible()
    unfold(page)
    assert page.locator("#field-sampler option").all_inner_texts() == ["ddim", "plms", "euler"]
    assert page.input_value("#field-steps") == "20"
    assert page.get_attribute("#field-steps", "max") == "1000"
    page.click("#tab-inpaint")
    expect(page.locator("#field-feather")).to_be_visible()
    expect(page.locator("#field-width")).to_have_count(0)
    page.press("#tab-inpaint", "ArrowRight")
    expect(page.locator("#tab-upscale")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#field-prompt")).to_have_count(0)
    assert page.input_value("#field-steps") == "8"


def test_everything_that_takes_input_has_a_name(page: Page) -> None:
    unfold(page)
    for tab in ("#tab-txt2img", "#tab-upscale", "#tab-inpaint"):
        page.click(tab)
        assert page.evaluate(UNNAMED) == []
    choose_picture(page, "mine.png", png((40, 30)))
    expect(page.locator("#mask")).to_be_visible()
    assert page.evaluate(UNNAMED) == []


def test_problems_stand_beside_their_field(page: Page, client: httpx2.Client) -> None:
    unfold(page)
    page.fill("#field-steps", "0")
    page.locator("#more summary").click()
    page.click("#submit")
    expect(page.locator("#error-steps")).to_contain_text("steps is 0; it must be an integer from 1 to 1000")
    expect(page.locator("#field-steps")).to_be_focused()
    assert page.get_attribute("#field-steps", "aria-invalid") == "true"
    page.click("#tab-upscale")
    page.click("#submit")
    expect(page.locator("#error-image")).to_have_text("Choose a picture first.")
    choose = page.get_by_role("button", name="Choose", exact=True)
    expect(choose).to_be_focused()
    expect(choose).to_have_accessible_description("Choose a picture first.")
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    expect(page.locator("#mask")).to_be_visible()
    page.click("#submit")
    expect(page.locator("#error-mask")).to_have_text("Draw on the picture what is to be repainted.")
    expect(page.get_by_role("button", name="Mask", exact=True)).to_be_focused()
    assert client.get("/v1/jobs").json()["items"] == []


def test_an_unknown_or_unreadable_thing_is_said(page: Page, client: httpx2.Client) -> None:
    page.goto(f"{client.base_url}#job=nothing")
    expect(page.locator(".ending")).to_contain_text("This job can't be shown")
    page.click("#tab-upscale")
    choose_picture(page, "notes.png", b"not a picture")
    expect(page.locator("#error-image")).to_contain_text("notes.png is not a picture")


def test_a_mask_is_drawn_by_keyboard_and_undone(page: Page) -> None:
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    mask = page.locator("#mask")
    page.locator(".choice", has_text="Rectangle").click()
    mask.focus()
    for key in ("Shift+ArrowLeft", "Shift+ArrowUp", " ", *["Shift+ArrowRight"] * 2, "Shift+ArrowDown", " "):
        mask.press(key)
    # A tenth of the shorter side each: from (17, 12) to (23, 15), grown to whole pixels.
    assert painted(page) == pytest.approx(6 * 3 / 1200)
    page.get_by_role("button", name="Invert").click()
    assert painted(page) == pytest.approx(1 - 6 * 3 / 1200)
    mask.press("Control+z")
    mask.press("Control+z")
    assert painted(page) == 0
    mask.press("Control+y")
    assert painted(page) == pytest.approx(6 * 3 / 1200)
    mask.press("Control+z")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_the_mask_is_zoomed_and_the_brush_sized(page: Page) -> None:
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    mask = page.locator("#mask")
    width = mask.bounding_box()
    mask.hover()
    page.mouse.wheel(0, -400)
    zoomed = mask.bounding_box()
    assert width is not None
    assert zoomed is not None
    assert zoomed["width"] == pytest.approx(width["width"] * 2.718**0.6, rel=0.02)
    mask.focus()
    size = int(page.input_value("#brush-size"))
    mask.press("]")
    assert int(page.input_value("#brush-size")) > size
    for key in ("[", "[", " ", " ", "e"):
        mask.press(key)
    assert int(page.input_value("#brush-size")) < size
    expect(page.locator(".toolbar input[value=eraser]")).to_be_checked()
    assert 0 < painted(page) < 0.05
    page.get_by_role("button", name="Fit").click()
    assert mask.bounding_box() == width


def test_all_of_ones_own_jobs_are_canceled_at_once(page: Page, client: httpx2.Client) -> None:
    client.post("/v1/txt2img", json={"prompt": "somebody else's"})
    for prompt in ("red", "heart"):
        page.fill("#field-prompt", prompt)
        page.click("#submit")
        expect(page.locator(".running q")).to_have_text(prompt)
    page.click("#cancel-all")
    expect(page.locator(".ending")).to_contain_text("Canceled")
    expect(page.locator("#cancel-all")).to_be_hidden()
    statuses = [job["status"] for job in client.get("/v1/jobs").json()["items"]]
    assert statuses == ["canceled", "canceled", "queued"]


def test_the_eraser_takes_away(page: Page) -> None:
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    page.get_by_role("button", name="Invert").click()
    page.locator(".choice", has_text="Eraser").click()
    page.locator("#mask").click()
    assert 0.9 < painted(page) < 1
    page.get_by_role("button", name="Clear").click()
    assert painted(page) == 0


def test_a_pasted_picture_is_taken(page: Page) -> None:
    page.click("#tab-upscale")
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(12, 8);
          canvas.getContext('2d');
          const transfer = new DataTransfer();
          transfer.items.add(new File([await canvas.convertToBlob()], 'pasted.png', { type: 'image/png' }));
          document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }));
        }"""
    )
    page.get_by_role("dialog").get_by_role("button", name="Upscale ×4").click()
    expect(page.locator("figcaption")).to_have_text("12 × 8 becomes 48 × 32")


def test_a_lost_connection_is_said_and_found_again_and_time_left_stands_still_meanwhile(
    page: Page, client: httpx2.Client, redis: Redis
) -> None:
    publish(redis, "painter", cells(row_s=0.01, decode=59.0))
    page.fill("#field-prompt", "red heart")
    page.click("#submit")
    job = job_id(page)
    steps = client.get(f"/v1/jobs/{job}").json()["progress"]["steps"]
    for name, value in (("status", "running"), ("step", steps), ("started_at", datetime.now(UTC).isoformat())):
        redis.hset(job_key(job), name, str(value))
    for step in range(1, steps + 1):
        redis.xadd(events_key(job), {"type": "step", "data": f'{{"step": {step}, "steps": {steps}}}'})
    expect(page.locator(".now")).to_have_text("Finishing")
    expect(page.locator(".time")).to_have_text(re.compile("^[345][0-9] s left$"))
    expect(page.locator("progress")).to_have_attribute("value", re.compile("^9[0-9]$"))  # only the end is the end
    page.wait_for_timeout(2500)  # looks at the job in between don't begin anew
    expect(page.locator(".time")).to_have_text(re.compile("^([34][0-9]|5[0-7]) s left$"))
    page.context.set_offline(True)
    expect(page.locator(".notice")).to_be_visible()
    expect(page.locator(".time")).to_have_text("")
    page.context.set_offline(False)
    expect(page.locator(".notice")).to_be_hidden()
    expect(page.locator(".time")).to_have_text(re.compile("^[345][0-9] s left$"))
    redis.hset(job_key(job), "status", "queued")
    client.delete(f"/v1/jobs/{job}")
    expect(page.locator(".ending")).to_contain_text("Canceled")


def test_a_stream_is_asked_for_again_where_too_many_are_open(
    browser: Browser, redis_server: RedisServer, redis: Redis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RETRY_AFTER_S", 1)
    settings = settings_for(redis_server.url, folder, event_streams=1)
    with running(settings) as client, open_page(browser, str(client.base_url)) as page:
        other = client.post("/v1/txt2img", json={"prompt": "other"}).json()["id"]
        page.fill("#field-prompt", "red heart")
        with page.expect_response(lambda answer: answer.url.endswith("/events") and answer.ok):
            refused = page.expect_response(lambda answer: answer.status == 429)
            with client.stream("GET", f"/v1/jobs/{other}/events"), refused:
                page.click("#submit")
        expect(page.locator(".running q")).to_have_text("red heart")
        job = job_id(page)  # of one that waits no steps are told: looks at it would take them away
        redis.hset(job_key(job), mapping={"status": "running", "started_at": datetime.now(UTC).isoformat()})
        redis.xadd(events_key(job), {"type": "step", "data": '{"step": 7, "steps": 20}'})
        expect(page.locator(".numbers .count")).to_have_text("Step 7 of 20")


def test_a_job_that_ends_in_a_hidden_tab_is_told_by_a_notification(page: Page, redis: Redis, folder: Path) -> None:
    page.add_init_script(f"({WATCH_NOTIFICATIONS})()")
    page.context.grant_permissions(["notifications"])
    page.reload()
    store = open_store(str(folder / "data" / "objects"))
    for prompt, away in (("seen", False), ("red heart", True)):
        page.fill("#field-prompt", prompt)
        page.click("#submit")
        expect(page.locator(".running q")).to_have_text(prompt)
        expect(page).to_have_title("0 % · latentd")
        page.evaluate("(away) => { window.away = away; }", away)
        finish(redis, store, job_id(page), png((64, 64)))
        expect(page.locator("#download")).to_be_visible()
        expect(page).to_have_title("latentd")
        page.evaluate("() => { window.away = false; }")
    page.wait_for_function("() => window.shown.length > 0")
    assert page.evaluate("window.shown") == [["Your picture is done", "red heart"]]
    page.click("#submit")
    page.evaluate("() => { window.away = true; }")
    page.click("#cancel")
    expect(page.locator(".ending")).to_contain_text("Canceled")


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
def gallery(browser: Browser, client: httpx2.Client, jobs: list[str]) -> Iterator[Page]:  # noqa: ARG001 (they are there)
    with open_page(browser, str(client.base_url), accept_downloads=True) as opened:
        opened.locator(".choice", has_text="All").click()
        expect(opened.locator(".history .thumb")).to_have_count(4)
        yield opened


def test_prompts_are_searched_and_jobs_filtered(gallery: Page) -> None:
    thumbs = gallery.locator(".history .thumb")
    gallery.fill("#search", "HEART")
    expect(thumbs).to_have_count(2)
    gallery.fill("#search", "")
    expect(thumbs).to_have_count(4)
    gallery.select_option("#filter-kind", "upscale")
    expect(thumbs).to_have_count(1)
    gallery.select_option("#filter-kind", "")
    gallery.select_option("#filter-status", "succeeded")
    expect(thumbs).to_have_count(3)
    gallery.select_option("#filter-model", "upscaler")
    expect(gallery.locator(".history .help")).to_have_text("Nothing matches.")


def test_more_is_offered_only_while_there_can_be_more(page: Page, client: httpx2.Client) -> None:
    for _ in range(OTHERS):
        client.post("/v1/txt2img", json={"prompt": "red heart"}).raise_for_status()
    page.reload()
    page.fill("#field-prompt", "mine")
    page.press("#field-prompt", "Enter")
    expect(page.locator(".history .thumb")).to_have_count(1)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    page.locator(".choice", has_text="All").click()
    expect(page.locator(".history .thumb")).to_have_count(24)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".history .thumb")).to_have_count(48)


def test_an_update_leaves_focus_where_it_is(gallery: Page, client: httpx2.Client) -> None:
    third = gallery.locator(".history .thumb").nth(2)
    third.focus()
    named = third.get_attribute("data-id")
    client.post("/v1/txt2img", json={"prompt": "newer"})
    expect(gallery.locator(".history .thumb")).to_have_count(5)
    assert gallery.evaluate("document.activeElement.dataset.id") == named


def test_selected_jobs_are_saved_compared_and_removed(
    gallery: Page, client: httpx2.Client, jobs: list[str], tmp_path: Path
) -> None:
    gallery.click("#select")
    picks = gallery.locator(".pick")
    picks.nth(1).check()
    expect(gallery.locator("#selected-compare")).to_be_disabled()
    picks.nth(3).check()
    busy = {"status": 429, "headers": {"Retry-After": "1"}}
    gallery.route("**/v1/images/*download*", lambda route: route.fulfill(**busy), times=1)
    with gallery.expect_download() as download:
        gallery.click("#selected-zip")
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{jobs[2]}-0.png", f"{jobs[0]}-0.png"]
        stored = client.get(f"/v1/images/{jobs[0]}-0").content
        assert archive.read(f"{jobs[0]}-0.png") == stored
    assert gallery.evaluate(AT_ONCE, client.get(f"/v1/jobs/{jobs[0]}").json()["images"]) == 4
    gallery.click("#selected-compare")
    expect(gallery.locator(".pair .compare")).to_be_visible()
    gallery.click("#selected-delete")
    gallery.click("#confirm-delete")
    expect(gallery.locator(".history .thumb")).to_have_count(2)
    assert client.get(f"/v1/jobs/{jobs[0]}").status_code == 410
