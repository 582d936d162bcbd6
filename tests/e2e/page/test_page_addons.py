"""What is added to a model on the page: looks of its card, LoRAs, ControlNets; and what only some models read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, Route, expect
from redis import Redis

from contract.card import InstalledControlNet, InstalledEmbedding, InstalledLora, Style
from core.pictures import lossless
from core.storage import open_store
from tests.e2e.browser import choose_picture, copied, drop_file, open_page, serious, unfold
from tests.gateway import PAINTER, UPSCALER, finish, png, with_text, write_cards

WIDTH = 32  # of the text that the painter reads
LOOKS = (Style(name="3D", suffix=", 3d style"), Style(name="Navy", suffix=" on a navy background"))
OPENED_OF_NOW_AND_BEFORE = """async ([before]) => {
  const { controlFile } = await import('./js/form/addons.js');
  const [now] = document.querySelector('#field-controls').value;
  while (!(await (await import('./js/lib/keep.js')).sourceOf(now.picture)));
  const [opened, { createImageBitmap }] = [[], window];
  window.createImageBitmap = (...sent) => (opened.push(sent), createImageBitmap(...sent));
  for (const control of [now, before]) await controlFile(control, { width: 40, height: 30 });
  return opened.length;
}"""
ABOUT: dict[str, Any] = {"hash": "2" * 64, "file": "x.safetensors", "size": 1, "changed_ns": 1}


def install(path: Path, card: InstalledLora | InstalledControlNet | InstalledEmbedding) -> None:
    """Write a card, and a file of the name that it has."""
    (path.parent / card.file).touch()
    path.write_text(card.model_dump_json(), "utf-8")


def write_add_ons(models_dir: Path) -> None:
    """Cards of add-ons for the painter and for others, as workers leave them beside the files."""
    fitting, wide = {"context_width": WIDTH, **ABOUT}, {"context_width": 2 * WIDTH, **ABOUT}
    loras = (
        InstalledLora(id="watercolour", trigger_words=("wet paper",), **fitting),
        InstalledLora(id="pixels", **fitting),
        InstalledLora(id="of-another-family", **wide),
        InstalledLora(id="broken", unserved="the file is broken", **fitting),
    )
    edges = InstalledControlNet(id="edges", **fitting)
    for folder, cards in (("Lora", loras), ("ControlNet", (edges,))):
        (models_dir / folder).mkdir()
        for card in cards:
            install(models_dir / folder / f"{card.id}.card.json", card)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A painter that has looks and reads its text by CLIP, and what can be added to it."""
    made = tmp_path_factory.mktemp("gateway")
    fields = (*PAINTER.fields, "prompt_syntax", "clip_skip")
    changes = {"tasks": ("txt2img", "inpaint", "img2img"), "fields": fields, "context_width": WIDTH, "styles": LOOKS}
    quick = {"id": "quick", "tasks": ("txt2img", "img2img"), "fields": (*fields, "denoising_start")}
    several = {"samplers": ("ddim", "tcd"), "guidance_embedded": True}
    several |= {"defaults": PAINTER.defaults.model_copy(update={"eta": 0.5})}
    consistent = PAINTER.model_copy(update=changes | quick | several)
    write_cards(made / "models", PAINTER.model_copy(update=changes), UPSCALER, consistent)
    write_add_ons(made / "models")
    return made


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, str(client.base_url), reduced_motion="reduce") as opened:
        yield opened


def add(page: Page, field: str, name: str) -> None:
    page.locator(f"#row-{field} select").select_option(name)
    page.locator(f"#row-{field}").get_by_role("button", name="Add this").click()


def lead(page: Page, picture: bytes) -> None:
    """Give the ControlNet its picture."""
    edges: FilePayload = {"name": "edges.png", "mimeType": "image/png", "buffer": picture}
    page.locator("#row-controls input[type=file]").set_input_files(files=edges)
    expect(page.locator("#row-controls .facts")).to_have_text("40 × 30")


def sent(page: Page, button: str = "#submit") -> dict[str, Any]:
    """The request of the job that a press makes."""
    with page.expect_response(lambda answer: answer.status == 202) as accepted:
        page.click(button)
    return dict(accepted.value.json()["request"])


def amount(page: Page, name: str) -> str:
    return page.get_by_label(f"How much of {name}", exact=True).input_value()


def test_looks_are_put_behind_the_prompt_in_the_cards_order_and_taken_out(page: Page) -> None:
    page.fill("#field-prompt", "red heart")
    navy, shaded = (page.get_by_role("button", name=name, exact=True) for name in ("Navy", "3D"))
    navy.click()
    shaded.click()
    expect(page.locator("#field-prompt")).to_have_value("red heart, 3d style on a navy background")
    page.keyboard.type(" ")  # by keyboard: the chip still has the focus
    expect(page.locator("#field-prompt")).to_have_value("red heart on a navy background")
    expect(navy).to_have_attribute("aria-pressed", "true")
    expect(shaded).to_have_attribute("aria-pressed", "false")
    page.fill("#field-prompt", "stars, 3d style")
    expect(shaded).to_have_attribute("aria-pressed", "true")
    page.click("#tab-upscale")
    expect(page.locator(".chip")).to_have_count(0)


def test_add_ons_of_the_models_family_are_chosen_sent_kept_and_found_again(page: Page) -> None:
    page.fill("#field-prompt", "(red:1.2) heart")
    unfold(page)
    options = page.locator("#row-loras option")
    assert options.all_inner_texts() == ["pixels", "watercolour"]
    add(page, "loras", "watercolour")
    expect(page.locator("#row-loras .line .help")).to_contain_text("wet paper")
    page.get_by_label("How much of watercolour", exact=True).fill("0.6")
    add(page, "controls", "edges")
    lead(page, png((40, 30)))
    page.get_by_label("edges acts until").fill("0.5")
    page.get_by_text("Draw the edges").click()
    page.locator("#field-prompt_syntax").check()
    page.locator("#field-guidance_interval input").first.fill("0.2")
    page.select_option("#field-schedule", "karras")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")  # the form alone scrolls
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.set_viewport_size({"width": 1280, "height": 900})
    request = sent(page)
    assert [(each["id"], each["scale"]) for each in request["loras"]] == [("watercolour", 0.6)]
    (control,) = request["controls"]
    assert (control["id"], control["scale"], control["start"], control["end"]) == ("edges", 1.0, 0.0, 0.5)
    assert (control["preprocess"], control["image"]["width"], control["image"]["height"]) == ("canny", 64, 64)
    assert (request["prompt_syntax"], request["schedule"]) == ("weighted", "karras")
    assert request["guidance_interval"] == [0.2, 1.0]

    page.reload()  # the draft
    unfold(page)
    assert amount(page, "watercolour") == "0.6"
    expect(page.locator("#row-controls .facts")).to_have_text("40 × 30")
    page.locator(".line-head button").first.click()
    expect(options.nth(1)).to_have_text("watercolour")  # it can be added again
    page.click("#cancel")
    page.click("#reuse")  # the job
    assert amount(page, "watercolour") == "0.6"
    expect(page.locator("#row-controls .facts")).to_have_text("40 × 30")
    assert page.locator("#field-guidance_interval input").first.input_value() == "0.2"


def test_a_control_without_its_picture_is_said_beside_it(page: Page) -> None:
    page.fill("#field-prompt", "heart")
    add(page, "controls", "edges")
    page.click("#submit")
    expect(page.locator("#error-controls")).to_have_text("Choose the picture that leads edges.")
    lead(page, png((40, 30)))
    page.get_by_label("edges acts from").fill("0.7")
    page.get_by_label("edges acts until").fill("0.3")
    page.click("#submit")
    expect(page.locator("#error-controls")).to_contain_text("each end is above its start")


def test_a_picture_is_drawn_over_with_what_was_added(page: Page) -> None:
    page.click("#tab-img2img")
    choose_picture(page, "mine.png", png((48, 32)))
    unfold(page)
    add(page, "loras", "pixels")
    add(page, "controls", "edges")
    lead(page, png((40, 30)))
    page.locator("#field-guidance_interval input").nth(1).fill("0.8")
    expect(page.locator("#cost")).to_contain_text("1 picture")  # the dry run takes all of it
    request = sent(page)
    assert request["loras"][0]["id"] == "pixels"
    assert (request["controls"][0]["image"]["width"], request["controls"][0]["image"]["height"]) == (48, 32)
    assert request["guidance_interval"] == [0.0, 0.8]


def test_the_form_leaves_to_the_service_what_follows_from_other_fields(page: Page) -> None:
    page.click("#tab-img2img")
    choose_picture(page, "mine.png", png((64, 64)))
    page.locator("#field-model").select_option("quick")
    unfold(page)
    page.fill("#field-denoising_start", "0.5")  # instead of a strength
    page.locator("#field-sampler").select_option("tcd")
    expect(page.locator("#cost")).to_contain_text("1 picture")
    request = sent(page)
    assert (request["sampler"], request["eta"], request["denoising_start"]) == ("tcd", 0.3, 0.5)
    page.fill("#field-eta", "0")
    assert sent(page)["eta"] == 0


def dry_run(command: str, job: str, folder: Path) -> dict[str, Any]:
    """The request that a copied curl would make, run in `folder`."""
    for asked, instead in (("img' -H", "img?dry_run=true' -H"), ("Accept: image/png", "Accept: application/json")):
        assert asked in command
        command = command.replace(asked, instead)
    subprocess.run(["/bin/sh", "-c", command], cwd=folder, check=True)
    answer: dict[str, Any] = json.loads((folder / f"{job}-0.png").read_text("utf-8"))
    assert "request" in answer, answer
    request: dict[str, Any] = answer["request"]
    return request


@pytest.mark.parametrize(
    ("kind", "fields", "pictures"),
    [
        ("txt2img", {"hires": {"scale": 2, "upscaler": "upscaler"}}, []),
        ("txt2img", {"hires": {"scale": 2}, "controls": [{"id": "edges"}]}, ["control_0"]),
        ("img2img", {"denoising_start": 0.5}, ["image"]),
        ("txt2img", {"sampler": "tcd", "eta": 0}, []),
    ],
)
def test_calls_are_copied_as_the_service_takes_them(
    page: Page,
    client: httpx2.Client,
    redis: Redis,
    folder: Path,
    tmp_path: Path,
    kind: str,
    fields: dict[str, Any],
    pictures: list[str],
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    data = {"prompt": "heart", "model": "quick", **{name: json.dumps(value) for name, value in fields.items()}}
    files = {name: (f"{name}.png", png((64, 64)), "image/png") for name in pictures}
    for path, content, _ in files.values():
        (tmp_path / path).write_bytes(content)
    sent = {"data": data, "files": files} if files else {"json": data | fields}
    job = client.post(f"/v1/{kind}", **sent).raise_for_status().json()
    finish(redis, open_store(str(folder / "data" / "objects")), job["id"], png((64, 64)))
    page.goto("about:blank")
    page.goto(f"{client.base_url}#job={job['id']}")
    expect(page.locator("#field-prompt")).to_have_value("heart")
    expect(page.locator("#field-eta")).to_have_value(str(fields.get("eta", "")))
    request = dry_run(copied(page, "curl"), job["id"], tmp_path)
    assert set(fields) < set(request)
    assert request == job["request"]


def test_settings_of_a_picture_bring_what_was_added(page: Page) -> None:
    resolved = {"kind": "txt2img", "model": "painter", "prompt": "heart", "steps": 9, "sampler": "euler", "seed": 3}
    resolved |= {"schedule": "karras", "guidance_interval": [0.1, 0.9], "prompt_syntax": "weighted", "clip_skip": 2}
    resolved |= {"loras": [{"id": "pixels", "scale": 0.4, "hash": "x"}, {"id": "gone", "scale": 1, "hash": "x"}]}
    resolved |= {"controls": [{"id": "edges", "scale": 0.5, "start": 0, "end": 0.6, "image": {}, "hash": "x"}]}
    drop_file(page, "mine.png", with_text(latentd=json.dumps({"request": resolved, "index": 0})))
    page.click("#read-settings")
    expect(page.locator("#problem")).to_have_text(
        "Its LoRA, gone, isn't installed here or doesn't fit the model. "
        "The pictures that led it aren't in the file: choose them again."
    )
    unfold(page)
    assert (amount(page, "pixels"), amount(page, "edges")) == ("0.4", "0.5")
    assert page.get_by_label("edges acts until").input_value() == "0.6"
    ends = page.locator("#field-guidance_interval input")
    assert [end.input_value() for end in ends.all()] == ["0.1", "0.9"]
    assert (page.input_value("#field-schedule"), page.input_value("#field-clip_skip")) == ("karras", "2")
    expect(page.locator("#field-prompt_syntax")).to_be_checked()


def choose_all(page: Page) -> None:
    """Choose what a plain job doesn't have."""
    unfold(page)
    page.select_option("#field-schedule", "karras")
    for end, share in enumerate(("0.2", "0.8")):
        page.locator("#field-guidance_interval input").nth(end).fill(share)
    page.locator("#field-prompt_syntax").check()
    page.fill("#field-clip_skip", "2")
    page.fill("#field-negative_prompt", "stars")
    add(page, "loras", "pixels")
    add(page, "controls", "edges")


def test_settings_that_are_taken_again_leave_none_that_were_chosen_since(
    page: Page, client: httpx2.Client, redis: Redis, folder: Path
) -> None:
    job = client.post("/v1/txt2img", json={"prompt": "red heart", "seed": 5}).json()
    finish(redis, open_store(str(folder / "data" / "objects")), job["id"], png((64, 64)))
    expect(page.locator("#submit")).to_be_visible()
    for again in ("link", "reuse", "read", "variations"):
        choose_all(page)
        page.evaluate("dispatchEvent(new Event('pagehide'))")  # they are the draft
        page.goto("about:blank")
        task = "" if again == "link" else "task=txt2img&"
        page.goto(f"{client.base_url}#{task}job={job['id']}")
        if again == "variations":
            request, changed = sent(page, "#variations"), {"seed": None, "seeds": None, "num_images": 4}
            assert {**request, **changed} == {**job["request"], **changed}
            continue
        if again == "reuse":
            page.click("#reuse")
        elif again == "read":
            drop_file(page, "mine.png", with_text(latentd=json.dumps({"request": job["request"], "index": 0})))
            page.click("#read-settings")
        expect(page.locator("#field-schedule")).to_have_value("")
        assert sent(page) == job["request"], again


@pytest.mark.parametrize(
    ("written", "scale"), [("pixels:0.7", "0.7"), ("pixels:0", "0"), ("pixels", "1"), ("pixels:", "1")]
)
def test_weights_and_loras_of_other_programs_are_read(page: Page, written: str, scale: str) -> None:
    text = f"(red:1.3) heart <lora:{written}>\nSteps: 12, Sampler: Euler, CFG scale: 5, Seed: 4, Clip skip: 2"
    drop_file(page, "mine.png", with_text(parameters=text))
    page.click("#read-settings")
    expect(page.locator("#field-prompt")).to_have_value("(red:1.3) heart")
    unfold(page)
    assert amount(page, "pixels") == scale
    assert page.input_value("#field-clip_skip") == "2"
    expect(page.locator("#field-prompt_syntax")).to_be_checked()


def test_pictures_that_lead_are_cropped_about_their_middle(page: Page, client: httpx2.Client) -> None:
    halves = Image.new("RGB", (40, 30), "white")
    halves.paste("black", (0, 0, 20, 30))
    add(page, "controls", "edges")
    lead(page, lossless(halves))
    cropped = page.evaluate(
        """async () => {
          const { controlFile } = await import('./js/form/addons.js');
          const [value] = document.querySelector('#field-controls').value;
          const bitmap = await createImageBitmap(await controlFile(value, { width: 64, height: 64 }));
          const paint = new OffscreenCanvas(64, 64).getContext('2d');
          paint.drawImage(bitmap, 0, 0);
          const { data } = paint.getImageData(0, 32, 64, 1);
          return [4, 28, 36, 60].map((x) => data[4 * x]);
        }"""
    )
    assert cropped == [0, 0, 255, 255]
    before = page.locator("#field-controls").evaluate("(node) => node.value")
    lead(page, png((40, 30)))
    assert page.evaluate(OPENED_OF_NOW_AND_BEFORE, before) == 1
    assert client.get("/v1/jobs").json()["items"] == []


def test_one_controlnet_leads_twice_and_all_of_it_is_reached_by_keyboard(page: Page) -> None:
    choice, lines = page.locator("#row-loras select"), page.locator("#row-loras .line-head")
    choice.focus()
    page.keyboard.press("ArrowDown")  # passes one, and adds none
    expect(lines).to_have_count(0)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(lines).to_have_text(["watercolour×"])
    page.keyboard.press("Enter")
    expect(choice).to_be_hidden()
    expect(page.get_by_label("How much of pixels", exact=True)).to_be_focused()
    page.get_by_role("button", name="Remove pixels").press("Enter")
    expect(page.get_by_role("button", name="Add this LoRA")).to_be_focused()
    for _ in range(2):
        add(page, "controls", "edges")
    expect(page.locator("#row-controls .line")).to_have_count(2)


def test_what_is_installed_while_the_page_is_open_appears_and_who_writes_goes_on(page: Page, folder: Path) -> None:
    page.fill("#field-prompt", "red heart")
    page.evaluate("document.querySelector('#field-prompt').setSelectionRange(3, 3)")
    expect(page.locator("#row-loras option")).to_have_text(["pixels", "watercolour"])
    lora = InstalledLora(id="dropped", context_width=WIDTH, **ABOUT)
    hand = InstalledEmbedding(name="bad-hand", widths=(WIDTH,), vectors=2, **ABOUT)
    (folder / "models" / "embeddings").mkdir()
    cards = [folder / "models" / "Lora" / "dropped.card.json", folder / "models" / "embeddings" / "bad-hand.card.json"]
    install(cards[0], lora)
    install(cards[1], hand)
    page.evaluate("window.dispatchEvent(new Event('focus'))")  # back from where files are moved
    expect(page.locator("#row-loras option")).to_have_text(["dropped", "pixels", "watercolour"])
    expect(page.locator(".words")).to_have_text("Embeddings to name in it: bad-hand")
    expect(page.locator("#field-prompt")).to_be_focused()
    page.keyboard.type(" big")
    expect(page.locator("#field-prompt")).to_have_value("red big heart")
    for path in cards:
        path.unlink()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#row-loras option")).to_have_text(["pixels", "watercolour"])
    expect(page.locator(".words")).to_have_count(0)


def test_an_answer_that_was_asked_for_before_takes_no_add_on_away(page: Page, folder: Path) -> None:
    """The page asks for the models every five seconds; one of these answers comes after the add-ons were read."""
    held: list[Route] = []
    page.route("**/v1/models", lambda route: route.continue_() if held else held.append(route))
    page.wait_for_event("request", lambda request: request.url.endswith("/v1/models"))
    card = folder / "models" / "Lora" / "late.card.json"
    install(card, InstalledLora(id="late", context_width=WIDTH, **ABOUT))
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(page.locator("#row-loras option")).to_have_text(["late", "pixels", "watercolour"])
    with page.expect_response("**/v1/models"):
        held[0].continue_()
    page.evaluate("new Promise((done) => setTimeout(done, 300))")  # as long as the page takes to read it
    page.click("#tab-upscale")
    page.click("#tab-txt2img")
    expect(page.locator("#row-loras option")).to_have_text(["late", "pixels", "watercolour"])
    card.unlink()
