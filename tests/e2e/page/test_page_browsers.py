"""The page in browsers that aren't the tests' own: what they lack or do otherwise is put in the place of Chromium's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis

from core.storage import open_store
from service.auth import keys
from tests.e2e.browser import canvas_pixels, choose_picture, drop_file, job_id, laid_out, open_page, unfold
from tests.gateway import finish, png

BLOCKED = """
  const deny = () => { throw new DOMException('Access is denied for this document.', 'SecurityError'); };
  for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, { get: deny });
  IDBFactory.prototype.open = deny;"""
FULL = """
  Storage.prototype.setItem = () => { throw new DOMException('No room is left.', 'QuotaExceededError'); };"""
# What is newest lacks; Safari writes PNG whatever it is asked for, and its canvases have no filter; some let no page
# copy.
# Files named slow.png are decoded once `window.decode()` was called.
OTHERS = """
  delete Map.groupBy;
  delete AbortSignal.any;
  const { convertToBlob } = OffscreenCanvas.prototype;
  OffscreenCanvas.prototype.convertToBlob = function () { return convertToBlob.call(this, { type: 'image/png' }); };
  delete CanvasRenderingContext2D.prototype.filter;
  Object.defineProperty(navigator, 'clipboard', { get: () => undefined });
  document.execCommand = () => false;
  const { createImageBitmap } = window;
  const released = new Promise((resolve) => { window.decode = resolve; });
  window.createImageBitmap = async (file, ...options) => {
    if (file.name === 'slow.png') await released;
    const bitmap = await createImageBitmap(file, ...options);
    if (file.name === 'slow.png') window.decoded = true;
    return bitmap;
  };"""
# Whether the page lets the browser go on with a key of a node.
LEFT = """(node, press) =>
  node.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...press }))"""
# What programs for tables put into the clipboard: the text, and a picture of it.
PASTE = """(node, types) => {
  const clipboardData = new DataTransfer();
  for (const type of types) clipboardData.setData(type, 'red heart');
  clipboardData.items.add(new File(['picture'], 'image.png', { type: 'image/png' }));
  return node.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
}"""
SMALL = """() => [...document.querySelectorAll('input, select, textarea')]
  .filter((node) => parseFloat(getComputedStyle(node).fontSize) < 16).map((node) => node.outerHTML)"""
BLUR = """(halo) => {
  const [, blur] = /blur\\(([\\d.]+)px\\)/.exec(getComputedStyle(halo).filter);
  return (Number(blur) * halo.width) / halo.clientWidth;
}"""
STYLE = "(node, name) => getComputedStyle(node)[name]"
PAGE = 24  # jobs that the gallery reads at once


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    """In a browser that lacks and can't do much, on a device with a finger and colours of its system."""
    with open_page(browser, str(client.base_url), OTHERS, forced_colors="active", has_touch=True) as opened:
        yield opened


@pytest.mark.parametrize("storage", [BLOCKED, FULL], ids=["blocked", "full"])
def test_where_nothing_can_be_stored_page_and_key_and_gallery_work_until_the_page_is_left(
    browser: Browser, client: httpx2.Client, redis: Redis, storage: str
) -> None:
    token = keys.create(redis, "page", ["generate", "read"])[1]

    def enter(page: Page) -> None:
        page.fill("#api-key", token)
        page.press("#api-key", "Enter")

    with open_page(browser, str(client.base_url), storage) as page:
        enter(page)
        page.fill("#field-prompt", "red heart")
        page.press("#field-prompt", "Enter")
        expect(page.locator(".now")).to_contain_text("Waiting for a worker")
        expect(page.locator(f".thumb[data-id='{job_id(page)}']")).to_be_visible()  # among one's own
        page.get_by_role("button", name="Earlier").click()
        expect(page.locator("#prompt-history button")).to_have_text("red heart")
        page.goto(str(client.base_url.join("docs")))
        enter(page)
        page.get_by_role("tab", name="Python").first.click()
        for chosen in page.get_by_role("tab", name="Python").all()[:2]:
            expect(chosen).to_have_attribute("aria-selected", "true")


def test_input_methods_and_other_layouts_have_their_keys(page: Page) -> None:
    prompt = page.locator("#field-prompt")
    prompt.fill("ねこ")
    enter = {"key": "Enter", "code": "Enter", "keyCode": 229}  # ends a word of an input method, in Safari
    for press in (enter, enter | {"ctrlKey": True}, {"key": "Escape", "code": "Escape", "keyCode": 229}):
        assert prompt.evaluate(LEFT, press)
    bracket = {"key": "[", "code": "Digit2", "altKey": True}  # by Option in German
    assert prompt.evaluate(LEFT, bracket)
    expect(prompt).to_be_focused()
    expect(page.locator("#submit")).to_be_enabled()

    prompt.blur()
    assert not page.locator("body").evaluate(LEFT, {"key": "¡", "code": "Digit2", "altKey": True})
    expect(page.locator("[role=tab]").nth(1)).to_have_attribute("aria-selected", "true")
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 30)))
    mask = page.locator("#mask")
    page.get_by_role("button", name="Invert").click()
    assert not mask.evaluate(LEFT, {"key": "я", "code": "KeyZ", "ctrlKey": True})
    assert set(canvas_pixels(page, "#mask")[3::4]) == {0}
    assert not mask.evaluate(LEFT, {"key": "у", "code": "KeyE"})
    expect(page.locator(".toolbar input[value=eraser]")).to_be_checked()
    page.locator("body").evaluate(LEFT, {"key": "п", "code": "KeyG"})
    expect(page.locator("#search")).to_be_focused()


def test_what_is_written_or_pasted_is_taken_for_what_it_is(page: Page, client: httpx2.Client) -> None:
    prompt = page.locator("#field-prompt")
    assert prompt.evaluate(PASTE, ["text/plain", "text/html"])
    assert not prompt.evaluate(PASTE, ["text/plain"])  # the name of a file
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    assert prompt.evaluate(STYLE, "direction") == "ltr"
    prompt.fill("قلب أحمر")
    assert prompt.evaluate(STYLE, "direction") == "rtl"
    unfold(page)
    page.click("#field-guidance_scale")
    page.keyboard.press("Control+a")
    page.keyboard.type("7e")
    page.click("#submit")
    expect(page.locator("#error-guidance_scale")).to_have_text("This browser can't read that as a number.")
    expect(page.locator("#field-guidance_scale")).to_be_focused()
    page.fill("#field-guidance_scale", "7")
    page.locator("#row-guidance_interval input").first.click()
    page.keyboard.type("-")
    page.click("#submit")
    expect(page.locator("#error-guidance_interval")).to_have_text("This browser can't read that as a number.")
    expect(page.locator("#row-guidance_interval input").first).to_be_focused()
    assert client.get("/v1/jobs").json()["items"] == []


def test_states_and_text_can_be_seen(page: Page) -> None:
    unfold(page)
    page.click("#seed-lock")
    chosen = ("[role=tab][aria-selected=true]", "#seed-lock[aria-pressed=true]", ".history .choice:has(:checked)")
    for state in chosen:
        assert page.locator(state).evaluate(STYLE, "outlineStyle") == "solid", state
    expect(page.locator("#seed-lock")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    assert page.locator("#seed-lock").evaluate(STYLE, "outlineStyle") == "double"
    assert page.locator("[role=tab][aria-selected=false]").first.evaluate(STYLE, "outlineStyle") == "none"
    assert page.locator("#field-preview_every").evaluate(STYLE, "appearance") == "auto"
    assert page.evaluate(SMALL) == []


def test_pictures_of_other_formats_are_sent_as_png_and_the_last_that_was_taken_stays(page: Page) -> None:
    page.click("#tab-upscale")
    choose_picture(page, "slow.png", png((40, 30)))
    gif = io.BytesIO()
    Image.new("P", (12, 8)).save(gif, "GIF")
    drop_file(page, "small.gif", gif.getvalue(), "image/gif")
    page.get_by_role("dialog").get_by_role("button", name="Upscale ×4").click()
    facts = page.locator(".picture-row .facts")
    expect(facts).to_contain_text("12 × 8")
    page.evaluate("window.decode()")
    page.wait_for_function("() => window.decoded")
    laid_out(page)
    expect(facts).to_contain_text("12 × 8")
    with page.expect_response(lambda answer: answer.request.method == "POST" and "dry_run" not in answer.url) as sent:
        page.click("#submit")
    assert sent.value.status == 202, sent.value.text()


def test_what_a_browser_cant_do_is_said_and_the_feather_is_shown_by_all(page: Page, redis: Redis, folder: Path) -> None:
    page.fill("#field-prompt", "red heart")
    page.press("#field-prompt", "Enter")
    expect(page.locator(".now")).to_be_visible()
    finish(redis, open_store(str(folder / "data" / "objects")), job_id(page), png((64, 64)))
    for menu, item, said in (
        ("#save-as", "WebP", "This browser can't write WebP; save it as PNG."),
        ("#copy-as", "curl", "This browser doesn't let the page copy."),
    ):
        page.click(f"{menu} summary")
        page.locator(f"{menu} button", has_text=item).click()
        expect(page.locator(".told")).to_have_text(said)

    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((64, 64)))
    page.fill("#field-feather", "8")
    page.get_by_role("button", name="Invert").click()
    for width in (1280, 900):  # of the window: the picture is shown smaller
        page.set_viewport_size({"width": width, "height": 700})
        assert page.locator(".halo").evaluate(BLUR) == pytest.approx(4, rel=0.02)  # pixels of the picture
    assert set(canvas_pixels(page, ".halo")[3::4]) == {255}


def test_more_of_the_gallery_is_shown_though_its_newest_are_read_again_meanwhile(
    page: Page, client: httpx2.Client
) -> None:
    for k in range(PAGE + 1):
        client.post("/v1/txt2img", json={"prompt": f"heart {k}"})
    page.locator(".choice", has_text="All").click()
    thumbs = page.locator(".history .thumb")
    expect(thumbs).to_have_count(PAGE)
    held: list[Route] = []
    page.route("**/v1/jobs?*cursor=*", lambda route: held.append(route))
    with page.expect_request("**/v1/jobs?*cursor=*"):
        page.get_by_role("button", name="Show more").click()
    page.fill("#field-prompt", "red heart")
    page.press("#field-prompt", "Enter")
    expect(thumbs).to_have_count(PAGE + 1)
    page.unroute("**/v1/jobs?*cursor=*")  # lets it go on
    expect(thumbs).to_have_count(PAGE + 2)
