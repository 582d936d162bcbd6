"""Masks: drawn on an origin that isn't secure, kept whatever happens meanwhile, sent with the job that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Route, expect
from redis import Redis

from core.storage import open_store
from tests.e2e.browser import ELSEWHERE, canvas_pixels, choose_picture, open_page
from tests.gateway import finish, png, upload_of

SIDE = 64
# How often a halo is drawn, of whichever editor.
COUNT_HALOS = """() => {
  window.halos = 0;
  const { drawImage } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.drawImage = function (...args) {
    if (this.canvas.className === 'halo') window.halos += 1;
    return drawImage.apply(this, args);
  };
}"""
# Masks are encoded once `window.encode()` was called.
HOLD_ENCODING = """() => {
  const { convertToBlob } = OffscreenCanvas.prototype;
  const released = new Promise((resolve) => { window.encode = resolve; });
  OffscreenCanvas.prototype.convertToBlob = async function (...args) {
    window.encoding = true;
    await released;
    return convertToBlob.apply(this, args);
  };
}"""


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {"allowed_hosts": (ELSEWHERE,)}


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, f"http://{ELSEWHERE}:{client.base_url.port}/") as opened:
        opened.click("#tab-inpaint")
        choose_picture(opened, "mine.png", png((SIDE, SIDE)))
        opened.fill("#field-prompt", "red heart")
        expect(opened.locator("#mask")).to_be_visible()
        yield opened


def point(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a point of the mask, in shares of its sides, is on the screen."""
    box = page.locator("#mask").bounding_box()
    assert box is not None
    return box["x"] + box["width"] * x, box["y"] + box["height"] * y


def painted(page: Page) -> int:
    """Pixels inside the mask."""
    return sum(alpha > 127 for alpha in canvas_pixels(page, "#mask")[3::4])


def add_rectangle(page: Page, *sides: int) -> None:
    """Left, top, right and bottom in percent."""
    page.get_by_role("button", name="By numbers").click()
    for name, side in zip(("Left", "Top", "Right", "Bottom"), sides, strict=True):
        page.fill(f"#side-{name}", str(side))
    page.get_by_role("button", name="Add rectangle").click()


def send(page: Page, button: str = "#submit") -> str:
    """The id of the job that a button makes."""
    with page.expect_response(lambda answer: answer.status == 202) as accepted:
        page.click(button)
    job: str = accepted.value.json()["id"]
    return job


def test_a_mask_is_drawn_by_pointer_where_the_origin_isnt_secure(page: Page) -> None:
    assert page.evaluate("[isSecureContext, 'getCoalescedEvents' in PointerEvent.prototype]") == [False, False]
    page.mouse.move(*point(page, 0.1, 0.5))
    page.mouse.down()
    page.mouse.move(*point(page, 0.9, 0.5), steps=4)
    page.mouse.up()
    size = SIDE // 6
    assert painted(page) > 0.8 * SIDE * size
    page.locator(".choice", has_text="Rectangle").click()
    page.get_by_role("button", name="Clear").click()
    page.mouse.move(*point(page, 0.25, 0.25))
    page.mouse.down()
    page.mouse.move(*point(page, 0.75, 0.75))
    page.mouse.up()
    assert painted(page) == pytest.approx(SIDE * SIDE / 4, rel=0.1)


def test_variations_and_reuse_have_the_mask_of_their_job(page: Page, redis: Redis, folder: Path) -> None:
    def box_of_mask(job: str) -> tuple[int, int, int, int] | None:
        with Image.open(folder / "data" / "objects" / upload_of(redis, job, "mask").path) as mask:
            return mask.convert("L").getbbox()

    add_rectangle(page, 0, 0, 25, 25)
    first = send(page)
    finish(redis, open_store(str(folder / "data" / "objects")), first, png((SIDE, SIDE)))
    expect(page.locator("#variations")).to_be_visible()
    page.locator("#row-image").get_by_role("button", name="Mask").click()
    page.get_by_role("button", name="Clear").click()
    add_rectangle(page, 75, 75, 100, 100)
    second = send(page)
    assert [box_of_mask(job) for job in (first, second)] == [(0, 0, 16, 16), (48, 48, 64, 64)]
    page.click(f".thumb[data-id='{first}']")
    assert box_of_mask(send(page, "#variations")) == (0, 0, 16, 16)
    page.locator("#row-image").get_by_role("button", name="Mask").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    assert painted(page) == 16 * 16  # what was drawn last comes back
    page.get_by_role("button", name="Redo").click()
    page.get_by_role("button", name="Redo").click()
    page.click(f".thumb[data-id='{first}']")
    page.click("#reuse")
    expect(page.locator("#announce")).to_have_text("Settings filled in")
    page.locator("#row-image").get_by_role("button", name="Mask").click()
    assert canvas_pixels(page, "#mask")[3] == 255
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    assert canvas_pixels(page, "#mask")[3] == 0  # the mask that was there already was added no second time


DRAFT = """async () => {
  const { file, operations } = await (await import('./js/lib/keep.js')).draft();
  return [file.name, operations.map(({ type }) => type).join()];
}"""


def test_a_link_in_a_tab_of_its_own_leaves_the_picture_that_is_worked_on_elsewhere(page: Page) -> None:
    def kept(name: str, *operations: str) -> None:
        while page.evaluate(DRAFT) != [name, ",".join(operations)]:
            page.wait_for_timeout(50)

    add_rectangle(page, 0, 0, 25, 25)
    first = send(page)
    other_file: FilePayload = {"name": "other.png", "mimeType": "image/png", "buffer": png((SIDE, SIDE // 2))}
    page.locator("#row-image input[type=file]").set_input_files(files=other_file)
    expect(page.locator(".picture-row .facts")).to_contain_text(f"{SIDE} × {SIDE // 2}")
    add_rectangle(page, 75, 75, 100, 100)
    page.get_by_role("button", name="Invert").click()
    kept("other.png", "rectangle", "invert")
    with page.context.expect_page() as opened:
        page.locator(f".thumb[data-id='{first}']").click(modifiers=["Control"])
    other = opened.value
    expect(other.locator(".picture-row .facts")).to_contain_text(f"{SIDE} × {SIDE}")
    other.wait_for_timeout(1000)  # four times what a change is kept after
    assert page.evaluate(DRAFT) == ["other.png", "rectangle,invert"]
    other.locator("#row-image").get_by_role("button", name="Mask").click()
    other.get_by_role("button", name="Invert").click()  # what is done there is kept
    kept("mine.png", "file", "invert")


def test_a_stroke_is_kept_that_the_stage_leaves_before_its_end(page: Page) -> None:
    held: list[Route] = []
    add_rectangle(page, 0, 0, 25, 25)
    page.route("**/v1/inpaint", lambda route: held.append(route))
    with page.expect_request("**/v1/inpaint"):
        page.click("#submit")
    page.mouse.move(*point(page, 0.6, 0.6))
    page.mouse.down()
    page.mouse.move(*point(page, 0.9, 0.9))
    drawn = painted(page)
    assert drawn > 16 * 16
    page.unroute("**/v1/inpaint")  # lets it go on
    expect(page.locator("#cancel")).to_be_visible()
    page.mouse.move(5, 5)
    page.mouse.up()
    page.locator("#row-image").get_by_role("button", name="Mask").click()
    assert painted(page) == pytest.approx(drawn, rel=0.05)  # drawn anew, at one go
    page.get_by_role("button", name="Undo").click()
    assert painted(page) == 16 * 16
    page.get_by_role("button", name="Redo").click()
    page.locator("#mask").focus()
    page.keyboard.press("Space")  # one that keys have begun isn't lost either
    page.keyboard.press("Shift+ArrowRight")
    begun = painted(page)
    page.mouse.click(*point(page, 0.1, 0.1))
    assert painted(page) == pytest.approx(begun, rel=0.05)


def test_repaint_is_sent_as_such_though_another_tab_is_open_before_the_mask_is_encoded(page: Page) -> None:
    add_rectangle(page, 0, 0, 25, 25)
    page.evaluate(f"({HOLD_ENCODING})()")
    page.click("#submit")
    page.wait_for_function("() => window.encoding")
    with page.expect_response(lambda answer: answer.request.method == "POST" and "dry_run" not in answer.url) as answer:
        page.click("#tab-txt2img")
        page.evaluate("window.encode()")
    assert answer.value.url.endswith("/v1/inpaint")
    assert answer.value.status == 202


def test_editors_that_were_left_draw_no_more(page: Page) -> None:
    page.fill("#field-feather", "8")
    page.evaluate(f"({COUNT_HALOS})()")

    def draws() -> object:
        page.evaluate("window.halos = 0")
        page.get_by_role("button", name="Invert").click()
        return page.evaluate("window.halos")

    before = draws()
    for _ in range(3):
        page.locator(".halo").evaluate("(node) => { node.dataset.left = ''; }")
        page.locator("#row-image").get_by_role("button", name="Mask").click()
        expect(page.locator(".halo:not([data-left])")).to_be_visible()
    assert draws() == before
