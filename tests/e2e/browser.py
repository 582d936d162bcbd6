"""Headless Chromium for tests of the page: pages that report console errors and requests to other origins."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import urljoin

from playwright.sync_api import Browser, FilePayload, Page, Request, expect, sync_playwright

ELSEWHERE = "machine"  # a name of this machine whose origin isn't secure, as that of a server in one's own network
FLAGS = (
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 60_000
AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
SERIOUS = """async ([inside, without]) => (await axe.run(inside.length ? { include: inside } : document, {
    resultTypes: ['violations'],
    selectors: false,
    rules: Object.fromEntries(without.map((rule) => [rule, { enabled: false }])),
  })).violations
  .filter(({ impact }) => impact === 'serious' || impact === 'critical')
  .map(({ id, nodes }) => [id, nodes.map(({ html }) => html)])"""
# What is told for five seconds stays until something else is: a test that looked late would never see it.
TOLD_FOR_GOOD = """() => {
  const { remove } = Element.prototype;
  Element.prototype.remove = function () {
    if (!this.classList.contains('told')) remove.call(this);
  };
}"""
LAID_OUT = """async () => {
  for (let k = 0; k < 3; k += 1) await new Promise((next) => requestAnimationFrame(next));
}"""
DRAFT_KEPT = """async () => {
  const { draft } = await import('./js/lib/keep.js');
  while ((await draft())?.operations.length !== 1) await new Promise((again) => setTimeout(again, 50));
}"""
LOCAL_SCHEMES = ("blob:", "data:")

# Chromium itself logs every answer ≥ 400 and every broken connection as an error; the page handles them.
NETWORK_LOG = "Failed to load resource"
# Nor can a page do anything about an origin that isn't secure.
INSECURE_LOG = "The Cross-Origin-Opener-Policy header has been ignored"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of the machine's own; nothing is downloaded."""
    executable = shutil.which("chromium")
    assert executable, "Chromium is not installed: `apt-get install chromium` (make test does it)"
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, url: str, script: str = "", **context: Any) -> Iterator[Page]:
    """A page of a fresh profile at `url`, where `script` runs first; at the end, no error was logged and no request
    went to another origin.
    """
    troubles: list[str] = []
    origin = urljoin(url, "/")

    def check(request: Request) -> None:
        if not request.url.startswith((origin, *LOCAL_SCHEMES)):
            troubles.append(f"request to {request.url}")

    with browser.new_context(viewport={"width": 1280, "height": 900}, **context) as session:
        page = session.new_page()
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(f"({TOLD_FOR_GOOD})()")
        page.on("request", check)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "console",
            lambda message: (
                troubles.append(message.text)
                if message.type in ("error", "warning") and not message.text.startswith((NETWORK_LOG, INSECURE_LOG))
                else None
            ),
        )
        page.add_init_script(f"(() => {{ {script} }})()")
        page.goto(url)
        yield page
    assert not troubles, troubles


def choose_picture(page: Page, name: str, content: bytes) -> None:
    """Take a file in the stage's place for pictures."""
    payload: FilePayload = {"name": name, "mimeType": "image/png", "buffer": content}
    page.locator("#stage input[type=file]").set_input_files(files=payload)


def job_id(page: Page) -> str:
    """The job that the address names."""
    expect(page).to_have_url(re.compile("[#&]job="))
    return re.split("[#&]job=", page.url)[1]


def unfold(page: Page) -> None:
    """Open everything that the form has folded away."""
    page.locator("#more").wait_for()
    page.locator("#form details").evaluate_all("(all) => all.forEach((details) => (details.open = true))")


def drop_file(page: Page, name: str, content: bytes, media_type: str = "image/png") -> None:
    """Let a file fall onto the middle of the page."""
    page.locator("#submit").wait_for()
    page.evaluate(
        """([name, type, bytes]) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
          document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [name, media_type, list(content)],
    )


def copied(page: Page, name: str) -> str:
    """The call of the picture on the stage, as one of the menu's languages."""
    page.click("#copy-as summary")
    page.locator("#copy-as button", has_text=name).click()
    expect(page.locator("#announce")).to_have_text(f"Copied as {name}")
    expect(page.locator(".told")).to_have_text(f"Copied as {name}")
    call: str = page.evaluate("navigator.clipboard.readText()")
    return call


def laid_out(page: Page) -> None:
    """Wait for three frames: what a change sets going has its place."""
    page.evaluate(LAID_OUT)


def draft_kept(page: Page) -> None:
    """Wait until the browser keeps a draft whose mask is of one operation."""
    page.evaluate(DRAFT_KEPT)


def canvas_pixels(page: Page, selector: str) -> list[int]:
    """RGBA bytes of a canvas of the page."""
    script = "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    pixels: list[int] = page.locator(selector).evaluate(script)
    return pixels


def serious(page: Page, *inside: str, without: Sequence[str] = ()) -> list[Any]:
    """What axe finds serious or worse on the page, or in some parts of it, with the elements; `without` some rules."""
    page.evaluate(AXE)
    found: list[Any] = page.evaluate(SERIOUS, [list(inside), list(without)])
    return found
