"""/docs against a service that draws: calls are tried, their code runs as it stands there, phones can read it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

from tests.e2e.browser import open_page, serious
from tests.gateway import mask, png
from tests.modules import ROOT
from tests.service import Service
from tests.tiny import write_tiny, write_tiny_upscale

# One of each way: JSON, a form, base64 in JSON; by the client and by httpx; pictures, lists, events, no body.
RUN = (
    "txt2img",
    "inpaint",
    "upscale",
    "list_jobs",
    "get_job",
    "get_image",
    "stream_events",
    "get_trace",
    "get_model",
    "list_loras",
    "get_metrics",
    "openai_generations",
    "a1111_img2img",
    "a1111_interrupt",
)
# Runs programs in one interpreter, each as if alone, and says which of them printed or wrote something.
ONE_AFTER_ANOTHER = """
import contextlib, io, json, pathlib, sys
told, picture = {}, pathlib.Path("picture.png")
for call, program in json.load(sys.stdin).items():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(program, call, "exec"), {"__name__": "__main__"})
    told[call] = bool(said.getvalue()) or picture.exists()
    picture.unlink(missing_ok=True)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    write_tiny("sd-inpaint", models_dir / "tiny")
    write_tiny_upscale(models_dir / "tiny-upscale")
    with Service({"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}) as started:
        started.post("/v1/txt2img", prompt="red heart")
        yield started


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with open_page(browser, f"{service.url}/docs", reduced_motion="reduce") as opened:
        expect(opened.locator("#get_job pre")).not_to_contain_text("JOB-ID")
        yield opened


def attempt(page: Page, call: str) -> Locator:
    """The call's section, with the form that sends it open."""
    section = page.locator(f"#{call}")
    section.get_by_text("Try it", exact=True).click()
    return section


def send(section: Locator) -> Locator:
    """Send, wait for the status, and return the answer."""
    section.get_by_role("button", name="Send").click()
    expect(section.locator(".status")).to_be_visible()
    return section.locator(".answer")


def code(page: Page, call: str, language: str) -> str:
    section = page.locator(f"#{call}")
    section.get_by_role("tab", name=language).click()
    return section.locator("[role=tabpanel]").inner_text()


def file(content: bytes) -> FilePayload:
    return {"name": "mine.png", "mimeType": "image/png", "buffer": content}


def test_a_picture_is_drawn_and_its_job_read(page: Page, service: Service) -> None:
    drawing = attempt(page, "txt2img")
    drawing.get_by_label("Body, as JSON").fill('{"prompt": "blue heart", "steps": 2}')
    expect(drawing.locator("[role=tabpanel]")).to_contain_text("blue heart")
    answer = send(drawing)
    expect(answer.locator(".status")).to_contain_text("200 OK")
    assert answer.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    answer.get_by_text("Headers").click()
    expect(answer.locator("table")).to_contain_text("latentd-seed")
    newest = service.client.get("/v1/jobs?limit=1").json()["items"][0]
    expect(page.locator("#get_job [role=tabpanel]")).to_contain_text(newest["id"])
    read = send(attempt(page, "get_job"))
    expect(read.locator("pre")).to_contain_text('"prompt": "blue heart"')
    expect(read.locator("img")).to_have_count(1)


def test_what_is_refused_is_shown_as_it_is(page: Page) -> None:
    drawing = attempt(page, "txt2img")
    drawing.get_by_label("Body, as JSON").fill('{"steps": 0}')
    expect(send(drawing).locator(".status.bad")).to_contain_text("422")
    expect(drawing.locator(".answer pre")).to_contain_text("an integer from 1 to 1000")
    drawing.get_by_label("Body, as JSON").fill('{"steps": ')
    drawing.get_by_role("button", name="Send").click()
    assert drawing.locator("textarea").evaluate("area => area.validationMessage") == "Write a JSON object."


def test_files_are_sent_and_events_are_shown(page: Page) -> None:
    repaint = attempt(page, "inpaint")
    for name, content in (("image", png((64, 48))), ("mask", mask((64, 48)))):
        repaint.get_by_label(f"{name} (file").set_input_files(files=file(content))
    expect(send(repaint).locator("img")).to_have_js_property("naturalHeight", 48)
    events = send(attempt(page, "stream_events")).locator(".events")
    expect(events.locator("li").last).to_contain_text("succeeded")
    expect(events.locator("li").first).to_contain_text("queued")
    expect(events.locator("img").first).to_be_visible()


def test_a_call_that_runs_is_stopped(page: Page) -> None:
    drawing = attempt(page, "txt2img")
    drawing.get_by_label("Body, as JSON").fill('{"prompt": "red heart", "steps": 1000, "width": 128, "height": 128}')
    drawing.get_by_role("button", name="Send").click()
    drawing.get_by_role("button", name="Stop").click()
    expect(drawing.locator(".status.bad")).to_have_text("Stopped.")
    expect(drawing.get_by_role("button", name="Send")).to_be_visible()


def test_the_language_holds_for_every_call_and_is_kept(page: Page) -> None:
    assert "from latentd_client import Client" in code(page, "txt2img", "Python")
    expect(page.locator("#list_models [role=tabpanel]")).to_contain_text("client.models()")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#txt2img").get_by_role("tab", name="JavaScript")).to_be_focused()
    expect(page.locator("#get_job [role=tabpanel]")).to_contain_text("await fetch")
    page.reload()
    expect(page.locator("#txt2img").get_by_role("tab", name="JavaScript")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_reads_it_without_moving_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.locator("#calls details").evaluate_all("(all) => all.forEach((details) => (details.open = true))")
    expect(page.locator("#inpaint textarea")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#fold nav").is_hidden()
    page.locator("#fold summary").click()
    expect(page.locator("#contents a").first).to_be_in_viewport()


def test_axe_finds_nothing_serious_in_forms_and_answers(page: Page) -> None:
    for call in ("class2img", "list_jobs"):
        attempt(page, call)
        page.locator(f"#{call}").get_by_text("Fields and answers").click()
    expect(send(page.locator("#list_jobs")).locator("pre")).to_be_visible()
    others = page.locator("#calls section:not(#class2img, #list_jobs)")  # axe reads them, too, before it judges
    others.evaluate_all("(all) => all.forEach((section) => section.remove())")
    page.emulate_media(color_scheme="dark")
    assert serious(page, "#class2img", "#list_jobs") == []


def test_events_and_webhooks_are_described(page: Page) -> None:
    expect(page.locator("#event-step")).to_contain_text("preview_step")
    expect(page.locator("#event-step")).to_contain_text("PicturePreview")
    expect(page.locator("#webhook-job-ended")).to_contain_text("webhook-signature")
    page.locator("#webhook-job-ended a", has_text="Job").first.click()
    expect(page.locator("#schema-Job")).to_be_in_viewport()
    links = page.locator("a[href^='#']").evaluate_all("(all) => all.map((link) => link.hash.slice(1))")
    assert page.evaluate("(ids) => ids.filter((id) => !document.getElementById(id))", links) == []


def test_the_code_of_calls_runs_as_curl_and_as_python(page: Page, service: Service, tmp_path: Path) -> None:
    for name in ("image", "mask", "init_images"):
        (tmp_path / f"{name}.png").write_bytes(mask((64, 64)) if name == "mask" else png((64, 64)))
    environment = service.env | {"PYTHONPATH": str(ROOT / "clients" / "python")}
    strict = {call: code(page, call, "curl").replace("curl ", "curl --fail-with-body ", 1) for call in RUN}
    for call, program in strict.items():
        said = ran(["bash", "-euc", program], tmp_path, environment)
        assert said or (tmp_path / "picture.png").exists() or call == "a1111_interrupt", program
        (tmp_path / "picture.png").unlink(missing_ok=True)
    programs = {call: code(page, call, "Python") for call in RUN}
    said = ran([sys.executable, "-W", "error", "-c", ONE_AFTER_ANOTHER], tmp_path, environment, json.dumps(programs))
    assert {call for call, told in json.loads(said).items() if not told} <= {"a1111_interrupt"}


def ran(command: list[str], folder: Path, environment: dict[str, str], told: str = "") -> str:
    """What a command that succeeds prints."""
    ended = subprocess.run(
        command, cwd=folder, env=environment, input=told, capture_output=True, timeout=240, check=False, text=True
    )
    assert ended.returncode == 0, f"{command[-1]}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def test_the_code_of_calls_runs_as_javascript(page: Page) -> None:
    programs = {call: code(page, call, "JavaScript") for call in RUN}
    page.evaluate(
        """(ids) => ids.forEach((id) => {
          const input = Object.assign(document.createElement('input'), { type: 'file', id });
          document.body.append(input);
        })""",
        ["image", "mask", "init_images"],
    )
    for name in ("image", "mask", "init_images"):
        content = mask((64, 64)) if name == "mask" else png((64, 64))
        page.locator(f"input#{name}").set_input_files(files=file(content))
    for call, program in programs.items():
        said: list[str] = []
        page.once("console", lambda message: said.append(message.text))  # noqa: B023 (of this turn)
        page.evaluate(f"async () => {{\n{program}\n}}")
        assert said, program
        assert said[0].startswith(("200 ", "id: ")), (call, said)
