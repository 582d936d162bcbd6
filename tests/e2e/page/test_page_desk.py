"""What is being worked on: tabs of installed tasks, drafts that outlive reloads, settings of a picture, costs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from redis import Redis

from contract.card import LayoutCard
from contract.redis_keys import serving_key
from core.pictures import lossless
from core.storage import open_store
from tests.e2e.browser import canvas_pixels, choose_picture, draft_kept, drop_file, job_id, open_page, serious, unfold
from tests.gateway import PAINTER, UPSCALER, finish, png, with_text, write_cards
from tests.times import cells, publish

TASKS = ["Create", "From a picture", "Repaint", "Upscale", "Of a class", "From boxes"]
BELOW_PROMPT = """() => document.querySelector('#field-width').getBoundingClientRect().top
  - document.querySelector('#field-prompt').getBoundingClientRect().bottom"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cards of more tasks than the default ones."""
    made = tmp_path_factory.mktemp("gateway")
    painter = PAINTER.model_copy(update={"tasks": ("txt2img", "inpaint", "img2img")})
    changes = {"id": "classes", "tasks": ("class2img",), "fields": ("steps", "sampler", "label", "class_id")}
    named = {"classes": 2, "class_names": ("cat", "dog"), "tokenizer": None, "token_window": None}
    scenes = {"id": "scenes", "tasks": ("layout2img",), "classes": 3, "class_names": ("person", "dog", "tree")}
    scenes |= {"native_size": 256, "fields": ("steps", "sampler", "boxes", "crop", "tokens", "width", "height")}
    scenes |= {"layout": LayoutCard(vocabulary=1024, length=11), "tokenizer": None, "token_window": None}
    others = [PAINTER.model_copy(update=update) for update in (changes | named, scenes)]
    write_cards(made / "models", painter, UPSCALER, *others)
    return made


@pytest.fixture
def page(browser: Browser, client: httpx2.Client, redis: Redis) -> Iterator[Page]:  # noqa: ARG001 (emptied)
    with open_page(browser, str(client.base_url)) as opened:
        yield opened


def test_tabs_are_the_tasks_of_installed_cards_and_stand_in_the_address(page: Page) -> None:
    tabs = page.locator("[role=tab]")
    expect(tabs).to_have_text(TASKS)
    tabs.nth(2).click()
    expect(page).to_have_url(re.compile("#task=inpaint$"))
    tabs.nth(4).click()
    assert page.locator("#field-label option").all_inner_texts() == ["cat", "dog"]
    page.go_back()
    expect(page.locator("#tab-inpaint")).to_have_attribute("aria-selected", "true")
    page.reload()
    expect(page.locator("#tab-inpaint")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".drop-title")).to_have_text("A picture to repaint")


def test_a_link_to_a_job_opens_its_task_and_settings(page: Page, client: httpx2.Client) -> None:
    files = {"image": ("a.png", png((64, 64)), "image/png")}
    job = client.post("/v1/img2img", data={"prompt": "red heart", "steps": "9"}, files=files).json()["id"]
    page.goto("about:blank")
    page.goto(f"{client.base_url}#job={job}")
    expect(page.locator("#tab-img2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#submit")).to_have_text("Create from it")
    expect(page.locator("#field-prompt")).to_have_value("red heart")
    expect(page.locator("#field-steps")).to_have_value("9")


def test_what_the_form_cant_ask_for_is_said_and_is_part_of_variations(
    page: Page, client: httpx2.Client, redis: Redis, folder: Path
) -> None:
    told, lost = page.locator(".told"), "That picture had timesteps of its own and a second, larger pass; the form "
    asked = {"prompt": "red heart", "timesteps": [900, 400], "hires": {"scale": 2, "upscaler": "upscaler"}}
    job = client.post("/v1/txt2img", json=asked).json()
    finish(redis, open_store(str(folder / "data" / "objects")), job["id"], png((128, 128)))
    page.goto("about:blank")
    page.goto(f"{client.base_url}#job={job['id']}")
    expect(told).to_have_text(lost + "makes it without.")
    page.reload()
    page.click("#reuse")
    expect(told).to_have_text(lost + "makes it without.")
    with page.expect_response(lambda answer: answer.status == 202) as accepted:
        page.click("#variations")
    request = accepted.value.json()["request"]
    assert request["num_images"] == 4
    assert {name: request[name] for name in asked} == {name: job["request"][name] for name in asked}
    facts = "Steps: 30, Sampler: Euler, Hires upscale: 2, Hires upscaler: Latent"
    drop_file(page, "theirs.png", with_text(parameters=f"red heart\n{facts}"))
    page.click("#read-settings")
    expect(told).to_have_text("That picture had a second, larger pass; the form makes it without.")


def test_a_class_is_chosen_and_found_again_by_its_name(page: Page, client: httpx2.Client) -> None:
    job = client.post("/v1/class2img", json={"class_id": 1}).json()["id"]
    page.goto("about:blank")
    page.goto(f"{client.base_url}#job={job}")
    expect(page.locator("#tab-class2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#field-label")).to_have_value("dog")


def test_drafts_outlive_a_reload_with_picture_and_mask(page: Page) -> None:
    page.fill("#field-prompt", "red heart")
    page.get_by_role("button", name="4 pictures").click()
    page.click("#tab-inpaint")
    expect(page.locator("#field-prompt")).to_have_value("red heart")
    page.fill("#field-feather", "7")
    choose_picture(page, "mine.png", png((40, 30)))
    page.get_by_role("button", name="Invert").click()
    draft_kept(page)
    page.reload()
    expect(page.locator("#field-feather")).to_have_value("7")
    expect(page.locator("#mask")).to_be_visible()
    assert set(canvas_pixels(page, "#mask")[3::4]) == {255}
    page.get_by_role("button", name="Undo").click()
    page.click("#tab-upscale")
    expect(page.locator("figcaption")).to_have_text("40 × 30 becomes 160 × 120")
    expect(page.locator("#field-num_images")).to_have_value("1")  # four pictures are a wish for another task
    page.click("#tab-txt2img")
    expect(page.locator("#field-num_images")).to_have_value("4")
    page.fill("#field-prompt", "")
    page.click("#tab-inpaint")
    expect(page.locator("#field-prompt")).to_have_value("")  # as it was left


def test_a_tab_leaves_to_others_what_somebody_changed_and_nothing_else(page: Page, client: httpx2.Client) -> None:
    def left(tab: Page, field: str = "prompt") -> dict[str, Any]:
        tab.evaluate("dispatchEvent(new Event('pagehide'))")
        drafts = json.loads(tab.evaluate("localStorage['latentd.desk']"))["drafts"]
        return {kind: draft["values"].get(field, "") for kind, draft in drafts.items()}

    job = client.post("/v1/txt2img", json={"prompt": "of a link", "seed": 7}).json()["id"]
    page.fill("#field-prompt", "red heart")
    assert left(page) == {"txt2img": "red heart"}
    other = page.context.new_page()
    other.goto(f"{client.base_url}#job={job}")
    expect(other.locator("#field-prompt")).to_have_value("of a link")
    for kind in ("inpaint", "img2img", "inpaint"):
        other.click(f"#tab-{kind}")
    assert left(other) == {"txt2img": "red heart"}
    other.fill("#field-prompt", "typed")
    other.click("#tab-txt2img")  # takes its words along, and what the link said of seeds stays its own
    assert (left(other), left(other, "seed")["txt2img"]) == ({"txt2img": "typed", "inpaint": "typed"}, "")
    other.reload()
    expect(other.locator("#field-seed")).to_have_value("7")
    other.click("#tab-img2img")
    other.fill("#field-strength", "0.3")
    assert left(other, "strength")["img2img"] == 0.3
    page.click("#tab-img2img")
    assert (left(page)["img2img"], left(page, "strength")["img2img"]) == ("red heart", 0.3)


def test_settings_are_read_from_a_dropped_picture_of_ours(page: Page) -> None:
    request = {"kind": "txt2img", "model": "painter", "prompt": "navy heart", "steps": 7, "sampler": "euler"}
    request |= {"seed": 5, "seeds": [5, 6], "width": 128, "height": 64}
    drop_file(page, "ours.png", with_text(latentd=json.dumps({"index": 1, "request": request})))
    page.click("#read-settings")
    expect(page.locator("#field-prompt")).to_have_value("navy heart")
    found = {name: page.input_value(f"#field-{name}") for name in ("steps", "sampler", "seed", "width", "height")}
    assert found == {"steps": "7", "sampler": "euler", "seed": "6", "width": "128", "height": "64"}
    expect(page.locator("#seed-lock")).to_have_attribute("aria-pressed", "true")


def test_settings_are_read_as_other_programs_write_them(page: Page) -> None:
    facts = "Steps: 30, Sampler: Euler, CFG scale: 6.5, Seed: 99, Size: 192x128, Model: elsewhere"
    drop_file(page, "theirs.png", with_text(parameters=f"red heart, größer\nNegative prompt: stars\n{facts}"))
    page.click("#read-settings")
    expect(page.locator("#field-prompt")).to_have_value("red heart, größer")
    names = ("negative_prompt", "steps", "sampler", "guidance_scale", "seed", "width", "height")
    found = [page.input_value(f"#field-{name}") for name in names]
    assert found == ["stars", "30", "euler", "6.5", "99", "192", "128"]
    expect(page.locator("#problem")).to_have_text("Its model, elsewhere, isn't installed here.")


def test_a_text_of_nothing_but_spaces_and_letters_is_read_at_once(page: Page) -> None:
    facts = f"Steps: 7, {' ' * 20_000}{'a ' * 20_000}{'a' * 20_000}, Size: 192x128"
    drop_file(page, "theirs.png", with_text(parameters=f"red heart\n{facts}"))
    page.click("#read-settings")
    expect(page.locator("#field-prompt")).to_have_value("red heart")
    assert [page.input_value(f"#field-{name}") for name in ("steps", "width", "height")] == ["7", "192", "128"]


def test_a_dropped_picture_is_used_for_any_task(page: Page) -> None:
    expect(page.locator("#submit")).to_be_visible()
    drop_file(page, "mine.png", png((40, 30)))
    expect(page.get_by_role("dialog")).to_contain_text("no settings")
    page.get_by_role("button", name="Start from it").click()
    expect(page.locator("#tab-img2img")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".picture-row .facts")).to_contain_text("40 × 30")


def test_the_cost_is_told_before_and_what_of_the_prompt_is_cut(page: Page, client: httpx2.Client, redis: Redis) -> None:
    publish(redis, "painter", cells(row_s=0.25))
    client.post("/v1/txt2img", json={"prompt": "red"})
    expect(page.locator(".tokens")).to_contain_text("0 of 6 tokens")
    page.get_by_role("button", name="2 pictures").click()
    below = page.evaluate(BELOW_PROMPT)
    page.fill("#field-prompt", "red heart on a navy background with stars")
    expect(page.locator("#cost")).to_have_text(re.compile("^2 pictures · about [0-9]+ s · behind 1 job · no worker "))
    expect(page.locator(".tokens")).to_contain_text("8 of 6 tokens")  # what starts and ends it isn't the writer's
    expect(page.locator(".tokens del")).to_have_text("with stars")
    assert page.evaluate(BELOW_PROMPT) == below  # what may be pressed just then stays in its place
    page.fill("#field-width", "96")
    page.click("#swap")
    assert (page.input_value("#field-width"), page.input_value("#field-height")) == ("64", "96")
    unfold(page)
    page.fill("#field-steps", "0")
    expect(page.locator("#cost")).to_have_text("")
    page.fill("#field-steps", "4")
    expect(page.locator("#cost")).to_contain_text("2 pictures")
    switched = "() => (document.querySelector('#tab-upscale').click(), document.querySelector('#cost').textContent)"
    assert page.evaluate(switched) == ""  # at once: it was another request's


def test_a_model_that_nobody_serves_is_told_before_it_is_asked(page: Page, redis: Redis) -> None:
    redis.zadd(serving_key("painter"), {"one@cpu": 2e10})
    page.reload()
    expect(page.locator("#service")).to_have_text("Ready")
    page.fill("#field-prompt", "red heart")
    expect(page.locator("#cost")).to_have_text("1 picture · time not known yet")
    page.click("#tab-class2img")
    expect(page.locator("#cost")).to_have_text(re.compile(" · no worker serves classes now; the job would wait "))
    redis.zadd(serving_key("classes"), {"one@cpu": 2e10})
    expect(page.locator("#cost")).to_have_text("1 picture · time not known yet")  # without a touch


def test_earlier_prompts_can_be_taken_again(page: Page) -> None:
    page.fill("#field-prompt", "red heart")
    page.press("#field-prompt", "Enter")
    job_id(page)
    page.fill("#field-prompt", "")
    page.get_by_role("button", name="Earlier").click()
    page.locator("#prompt-history button").first.click()
    expect(page.locator("#field-prompt")).to_have_value("red heart")


def test_a_mask_comes_from_a_file_or_from_numbers(page: Page) -> None:
    page.click("#tab-inpaint")
    choose_picture(page, "mine.png", png((40, 20)))
    page.get_by_role("button", name="By numbers").click()
    page.get_by_role("button", name="Add rectangle").click()
    alphas = canvas_pixels(page, "#mask")[3::4]
    assert sum(alpha == 255 for alpha in alphas) == 20 * 10
    page.get_by_role("button", name="Clear").click()
    half = Image.new("L", (20, 10), 0)
    half.paste(255, (0, 0, 10, 10))
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="From file").click()
    chosen.value.set_files(files={"name": "notes.png", "mimeType": "image/png", "buffer": b"none"})
    expect(page.locator(".told")).to_have_text("notes.png is not a picture that this browser can read.")
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="From file").click()
    chosen.value.set_files(files={"name": "mask.png", "mimeType": "image/png", "buffer": lossless(half)})
    inside = "document.querySelector('#mask').getContext('2d').getImageData(3, 2, 1, 1).data[3] === 255"
    page.wait_for_function(f"() => {inside}")
    alphas = canvas_pixels(page, "#mask")[3::4]
    assert [alphas[y * 40 + x] for y in (2, 17) for x in (3, 36)] == [255, 0, 255, 0]


def drag(page: Page, *shares: float) -> None:
    """From a point of the board to another, by the mouse."""
    box = page.locator(".plane").bounding_box()
    assert box is not None
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in (shares[:2], shares[2:])]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=3)
    page.mouse.up()


def test_boxes_are_drawn_named_moved_and_sent(page: Page, client: httpx2.Client) -> None:
    page.click("#tab-layout2img")
    page.click("#submit")
    expect(page.locator("#error-boxes")).to_have_text("Draw a box first.")
    drag(page, 0.1, 0.1, 0.9, 0.5)
    page.locator(".toolbar select").select_option("tree")
    drag(page, 0.3, 0.2, 0.5, 0.4)  # within the other
    page.locator(".toolbar select").select_option("dog")
    drag(page, 0.7, 0.7, 0.705, 0.7)  # a slip
    expect(page.locator(".box .name")).to_have_text(["tree", "dog"])
    drag(page, 0.32, 0.22, 0.42, 0.52)  # by its name
    drag(page, 0.59, 0.69, 0.69, 0.79)  # by its corner
    sides = page.locator("#row-boxes .line").nth(1).locator(".sides input")
    assert [float(side.input_value()) for side in sides.all()] == pytest.approx([40, 50, 70, 80], abs=1)
    assert serious(page) == []
    page.click("#submit")
    job = job_id(page)
    tokens = client.get(f"/v1/jobs/{job}").json()["request"]["tokens"]
    assert tokens[0::3][:3] == [2, 1, 1023]
    page.get_by_role("button", name="Draw").click()
    expect(page.locator(".plane")).to_be_visible()
    page.goto("about:blank")
    page.goto(f"{client.base_url}#job={job}")  # the numbers become boxes again, on the grid that the model reads
    expect(page.locator("#tab-layout2img")).to_have_attribute("aria-selected", "true")
    again = page.locator("#row-boxes .line").nth(1)
    expect(again.locator("select")).to_have_value("1")
    found = [float(side.input_value()) for side in again.locator(".sides input").all()]
    assert found == pytest.approx([40, 50, 70, 80], abs=3)
    expect(page.locator(".told")).to_have_count(0)
    part = {"boxes": [{"box": [0, 0, 1, 1], "class_id": 2, "group": True}], "crop": [0, 0, 0.5, 0.5]}
    cropped = client.post("/v1/layout2img", json=part).json()["id"]
    page.goto("about:blank")
    page.goto(f"{client.base_url}#job={cropped}")
    expect(page.locator(".told")).to_contain_text("a part of its scene")
    kept = page.locator("#field-boxes").evaluate("(node) => node.value")
    assert kept == [{"box": [0, 0, 1, 1], "class_id": 2, "group": True}]


def test_what_was_done_to_boxes_is_undone_and_done_again(page: Page) -> None:
    def sides() -> list[float]:
        return [float(side.input_value()) for side in page.locator("#row-boxes .sides input").all()]

    page.click("#tab-layout2img")
    undo, redo = (page.locator(".toolbar").get_by_role("button", name=name) for name in ("Undo", "Redo"))
    expect(undo).to_be_disabled()
    drag(page, 0.1, 0.1, 0.5, 0.5)
    drawn = sides()
    drag(page, 0.7, 0.7, 0.705, 0.7)  # a slip is nothing to undo
    drag(page, 0.12, 0.12, 0.42, 0.42)  # moved by its name: one change, however long the way
    moved = sides()
    assert moved == pytest.approx([40, 40, 80, 80], abs=1)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".box")).to_have_count(0)
    undo.click()
    assert sides() == moved
    page.keyboard.press("Control+z")
    assert sides() == drawn
    page.keyboard.press("Control+y")
    assert sides() == moved
    page.keyboard.press("Control+Shift+z")
    expect(page.locator(".box")).to_have_count(0)
    expect(redo).to_be_disabled()
    for _ in range(3):
        page.keyboard.press("Control+z")
    expect(undo).to_be_disabled()
    drag(page, 0.1, 0.1, 0.3, 0.3)
    drag(page, 0.6, 0.6, 0.8, 0.8)
    page.locator(".box").first.focus()
    page.keyboard.press("Delete")
    page.keyboard.press("Control+z")  # it comes back as the first: what is pressed is what moves
    drag(page, 0.12, 0.12, 0.32, 0.12)
    assert sides() == pytest.approx([30, 10, 50, 30, 60, 60, 80, 80], abs=1)
    names = [line.get_attribute("aria-label") for line in page.locator("#row-boxes .line").all()]
    assert names == ["Box 1", "Box 2"]
    page.locator(".toolbar select").select_option("dog")
    page.keyboard.press("Control+z")
    expect(page.locator(".toolbar select")).to_have_value("0")
    for _ in range(5):
        page.keyboard.press("Control+z")
    expect(undo).to_be_disabled()
    drag(page, 0.1, 0.1, 0.9, 0.9)  # after which there is nothing to redo
    expect(redo).to_be_disabled()
    expect(page.locator(".box")).to_have_count(1)


def test_boxes_are_made_by_keyboard_alone_and_outlive_a_reload(page: Page) -> None:
    page.click("#tab-layout2img")
    page.locator(".toolbar").get_by_role("button", name="Add a box").press("Enter")
    box = page.locator(".box")
    expect(box).to_be_focused()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowDown"):
        page.keyboard.press(key)
    expect(box).to_have_attribute("aria-label", "person, from 29 % to 79 % across, 23 % to 75 % down")
    page.locator("#row-boxes .sides input").first.fill("5")
    page.keyboard.press("Tab")
    expect(box).to_have_attribute("aria-label", re.compile("from 5 % to 79 %"))
    for _ in range(2):
        page.locator("#row-boxes").get_by_role("button", name="Add a box").click()
    expect(page.locator("#row-boxes").get_by_role("button", name="Add a box")).to_be_disabled()  # three are read
    box.last.focus()
    page.keyboard.press("Delete")
    expect(box).to_have_count(2)
    page.fill("#field-width", "512")
    assert page.locator(".board .canvas").evaluate("(node) => node.clientWidth / node.clientHeight") == pytest.approx(2)
    page.reload()
    expect(page.locator(".box")).to_have_count(2)


def test_a_second_finger_neither_moves_nor_ends_a_box_that_is_drawn(page: Page) -> None:
    page.click("#tab-layout2img")
    plane = page.locator(".plane").bounding_box()
    assert plane is not None
    x, y = plane["x"], plane["y"]
    page.mouse.move(x + 0.1 * plane["width"], y + 0.1 * plane["height"])
    page.mouse.down()
    page.mouse.move(x + 0.5 * plane["width"], y + 0.5 * plane["height"])
    other = {"pointerId": 7, "isPrimary": False, "bubbles": True, "clientX": x, "clientY": y}
    for name in ("pointerdown", "pointermove", "pointerup"):
        page.locator(".plane").dispatch_event(name, other)
    page.mouse.move(x + 0.6 * plane["width"], y + 0.6 * plane["height"])
    page.locator(".plane").dispatch_event("pointermove", other)
    page.mouse.up()
    right = page.locator("#row-boxes .sides input").nth(2)
    expect(right).to_have_value(re.compile(r"^(60|59\.9|60\.1)"))
