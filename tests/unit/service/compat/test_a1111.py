"""Names, prompts and texts of the web UI, translated."""

from __future__ import annotations

import io
import time
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from contract.card import LoraCard
from core.errors import InvalidRequest
from core.pictures import lossless
from service.compat.a1111.draw import _check, _frame
from service.compat.a1111.hires import fixed, second_pass
from service.compat.a1111.ignored import ignored
from service.compat.a1111.infotext import MAX_CHUNKS, MAX_TEXT, MAX_TEXTS, SIGNATURE, parse, read_texts
from service.compat.a1111.pictures import Region, grid, scaled_feather
from service.compat.a1111.posts import Img2ImgSent, Txt2ImgSent
from service.compat.a1111.prompts import read_prompt
from service.compat.a1111.samplers import SCHEDULERS, choose, name_of, offered_samplers
from service.compat.fields import told
from service.http.warnings import HEADER, HEADER_CHARACTERS, warning_headers
from tests.gateway import PAINTER, UPSCALER

CARD = PAINTER.model_copy(update={"samplers": ("ddim", "euler", "euler_a", "dpmpp_2m", "novel")})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("Euler a", "euler_a"),
        ("euler A", "euler_a"),
        ("k_euler_ancestral", "euler_a"),
        ("DPM++ 2M", "dpmpp_2m"),
        ("dpmpp_2m", "dpmpp_2m"),
        ("DDIM", "ddim"),
        ("novel", "novel"),
        (None, None),
    ],
)
def test_samplers_resolve_by_what_the_card_lists(name: str | None, ours: str | None) -> None:
    assert choose(name, None, CARD) == choose(name, "Automatic", CARD) == (ours, None)


def test_spaces_without_a_lora_are_read_once() -> None:
    began = time.process_time()
    assert read_prompt(f"{' ' * 40_000}x", {}).text.endswith(" x")
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(("sent", "padding"), [({}, 4), ({"mask_blur": 9, "inpaint_full_res_padding": 2}, 11)])
def test_a_region_reaches_as_far_as_its_mask_is_blended(sent: dict[str, int], padding: int) -> None:
    post = Img2ImgSent.model_validate({"init_images": ["x"], "mask": "x", **sent})
    assert _frame(post).padding == padding


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ControlNet", [{"enabled": False, "model": "x"}, {"enabled": False}]),
        ("ADetailer", [False, {"ad_model": "face_yolov8n.pt"}]),
        ("Dynamic Thresholding (CFG Scale Fix)", [False, 7, 100, "Constant"]),
        ("Refiner", [False, "", 0.8]),
        ("Seed", [-1, False, -1, 0, 0, 0]),
        ("sampler", [20, "Euler", "Automatic"]),
    ],
)
def test_scripts_that_are_switched_off_or_of_the_page_alone_pass(name: str, arguments: list[object]) -> None:
    _check(Txt2ImgSent.model_validate({"alwayson_scripts": {name: {"args": arguments}}}))


@pytest.mark.parametrize("arguments", [[{"enabled": False}, {"model": "x"}], [{"enabled": True}], [True, {}], [0, 1]])
def test_scripts_that_ask_for_anything_are_refused(arguments: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="script 'other' not found"):
        _check(Txt2ImgSent.model_validate({"alwayson_scripts": {"other": {"args": arguments}}}))


def test_unknown_names_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidRequest, match="model painter runs DPM\\+\\+ 2M, Euler a, Euler, DDIM, novel") as wrong:
        choose("Heun", None, CARD)  # known, but not to this model
    assert wrong.value.field == "sampler_name"
    with pytest.raises(InvalidRequest, match="there are Automatic"):
        choose("Euler", "sideways", CARD)


def test_schedules_are_offered_as_requests_have_them() -> None:
    for scheduler in SCHEDULERS:
        assert choose("Euler", scheduler.label, CARD).schedule == scheduler.ours
        if scheduler.ours is not None:
            assert choose(f"DPM++ 2M {scheduler.label}", None, CARD) == ("dpmpp_2m", scheduler.ours)


def test_samplers_are_listed_by_their_names_there() -> None:
    assert [named.name for named in offered_samplers([PAINTER, CARD])][-2:] == ["PLMS", "novel"]
    assert (name_of("euler_a"), name_of("novel")) == ("Euler a", "novel")


def test_prompts_name_loras() -> None:
    known = {"inks-old-gold": LoraCard(id="inks-old-gold", hash="", names=("old gold", "gold"))}
    prompt = read_prompt("red heart <lora:ink:0.5>, <lora:gold> <lora:ink:2> <lora:old gold:3>", known)
    assert prompt.text == "red heart,"
    assert prompt.fields == {"loras": [{"id": "ink", "scale": 0.5}, {"id": "inks-old-gold", "scale": 1.0}]}
    assert read_prompt("(a:1.2) [b] <c>", known) == ("(a:1.2) [b] <c>", {})


@pytest.mark.parametrize(("written", "scale"), [(".5", 0.5), (" 0.5 ", 0.5), ("-.5", -0.5), ("5e-1", 0.5), ("", 1.0)])
def test_weights_of_loras_are_any_number(written: str, scale: float) -> None:
    assert read_prompt(f"a <lora:ink:{written}>", {}).fields == {"loras": [{"id": "ink", "scale": scale}]}


@pytest.mark.parametrize("written", ["abc", "0.8:0.3", "te=0.5:unet=0.3", "nan"])
def test_weights_of_loras_that_are_no_number_are_refused(written: str) -> None:
    with pytest.raises(InvalidRequest, match="must be one number"):
        read_prompt(f"a <lora:ink:{written}>", {})


def test_texts_of_a_png_are_read_and_cut() -> None:
    chunks, data = PngInfo(), io.BytesIO()
    text = 'a cat, "b"\nand a dog\nNegative prompt: hat\nx\nSteps: 5, Sampler: DPM++ 2M, Size: 64x32, Note: "a, b: c"'
    chunks.add_text("parameters", text)
    chunks.add_itxt("Café", "naïve", zip=True)
    chunks.add_text("packed", "z" * 100, zip=True)
    Image.new("RGB", (4, 4)).save(data, "PNG", pnginfo=chunks)
    texts = read_texts(data.getvalue())
    assert texts == {"parameters": text, "Café": "naïve", "packed": "z" * 100}
    assert parse(texts["parameters"]) == {
        "Prompt": 'a cat, "b"\nand a dog',
        "Negative prompt": "hat\nx",
        "Steps": "5",
        "Sampler": "DPM++ 2M",
        "Size-1": "64",
        "Size-2": "32",
        "Note": "a, b: c",
    }
    assert parse("a cat, large: yes") == {"Prompt": "a cat, large: yes", "Negative prompt": ""}
    assert parse("") == {}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + b"\0\0\0\0"


def test_texts_of_a_hostile_png_stay_small() -> None:
    bomb = _chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"a" * (8 * MAX_TEXT)))
    assert len(read_texts(SIGNATURE + bomb)["bomb"]) == MAX_TEXT
    assert read_texts(SIGNATURE + _chunk(b"zTXt", b"broken\0\0none") + b"\xff\xff") == {"broken": ""}
    with pytest.raises(InvalidRequest, match="more than 64 texts"):
        read_texts(SIGNATURE + b"".join(_chunk(b"tEXt", b"%d\0" % k) for k in range(MAX_TEXTS + 1)))
    with pytest.raises(InvalidRequest, match="more than 64 texts"):
        read_texts(SIGNATURE + bomb * (MAX_TEXTS + 1))
    with pytest.raises(InvalidRequest, match="more than 20000 chunks"):
        read_texts(SIGNATURE + _chunk(b"IDAT", b"") * (MAX_CHUNKS + 1))


@pytest.mark.parametrize(
    "run", ["x", " ", "\t", "x ", "- ", ":", ": ", '"', '\\"', "\\", ",", "a:", 'a:"', 'a:",', 'a:"\\,', "1"]
)
def test_the_time_to_read_a_hostile_text_is_linear_in_its_length(run: str) -> None:
    began = time.process_time()
    assert "Steps" not in parse(f"a cat\nx{run * (2**12 // len(run))}x")
    assert "Steps" not in parse(f'a cat\nx:"{run * (2**12 // len(run))}x')
    assert time.process_time() - began < 0.5


def test_a_region_blends_as_far_as_was_asked_for_in_the_picture() -> None:
    mask, drawn = Image.new("L", (100, 100), 0), Image.new("RGB", (80, 80))
    mask.paste(255, (30, 30, 50, 50))
    place = Region(b"", lossless(mask), padding=0, feather=3)
    assert scaled_feather(place, lossless(drawn)) == 12  # a region of 20 pixels is drawn at 80


def test_neutral_fields_aren_t_told() -> None:
    sent = {"tiling": False, "styles": [], "s_noise": 1, "hr_scale": 2.0, "enable_hr": True, "unheard_of": "x"}
    assert [warning.field for warning in ignored(sent)] == ["enable_hr", "unheard_of"]


def test_a_header_of_warnings_stays_within_what_clients_read() -> None:
    assert warning_headers([]) == {}
    header = warning_headers([told(f"field{k}", "x" * 500) for k in range(100)])[HEADER]
    assert 100 < len(header) <= HEADER_CHARACTERS


def test_the_high_resolution_pass_is_translated() -> None:
    cards = {card.id: card for card in (PAINTER, UPSCALER)}

    def asked(**fields: object) -> dict[str, object] | None:
        return second_pass(Txt2ImgSent.model_validate({"enable_hr": True, **fields}), PAINTER, cards)

    assert asked() == {"scale": 2.0, "strength": 0.75, "steps": None, "upscaler": "latent"}
    chosen = asked(hr_scale=1.5, denoising_strength=0.4, hr_second_pass_steps=7, hr_upscaler="Upscaler")
    assert chosen == {"scale": 1.5, "strength": 0.4, "steps": 7, "upscaler": "upscaler"}
    assert [(asked(hr_upscaler=name) or {})["upscaler"] for name in ("Latent (bicubic)", "Lanczos")] == [
        "latent",
        "lanczos",
    ]
    assert [(asked(hr_upscaler=name) or {})["upscaler"] for name in ("None", "Nearest")] == ["lanczos"] * 2
    assert (asked(hr_resize_x=96, hr_resize_y=0) or {})["scale"] == 1.5
    assert (asked(width=128, height=64, hr_resize_x=256, hr_resize_y=128) or {})["scale"] == 2.0
    assert asked(enable_hr=False, denoising_strength=0, hr_scale=0, hr_upscaler="unheard") is None


@pytest.mark.parametrize(
    ("first", "sent", "made"),
    [
        ((512, 768), {"hr_scale": 1.3}, (672, 1008)),
        ((512, 768), {"hr_scale": 1.7}, (864, 1296)),
        ((512, 768), {"hr_scale": 3.99}, (2048, 3072)),
        ((832, 1216), {"hr_scale": 1.05}, (848, 1240)),  # a shape is kept to the pixel that rounding allows
        ((512, 768), {"hr_resize_x": 1000}, (992, 1488)),
        ((512, 520), {"hr_scale": 1.3}, (666, 676)),  # none is near: refused as it is asked for
    ],
)
def test_a_second_pass_has_the_nearest_size_that_can_be_drawn(
    first: tuple[int, int], sent: dict[str, float], made: tuple[int, int]
) -> None:
    post = Txt2ImgSent.model_validate({"enable_hr": True, "width": first[0], "height": first[1], **sent})
    asked = second_pass(post, PAINTER, {}) or {}
    assert tuple(round(side * asked["scale"]) for side in first) == made
    messages = [(warning.field, f"{made[0]}×{made[1]}" in warning.message) for warning in fixed(post, PAINTER)]
    assert messages == ([] if made[0] % 8 else [(*sent, True)])


@pytest.mark.parametrize("scale", [1.25, 1.5, 2.0, 4.0])
def test_a_scale_that_can_be_drawn_is_taken_as_it_is(scale: float) -> None:
    post = Txt2ImgSent.model_validate({"enable_hr": True, "width": 512, "height": 768, "hr_scale": scale})
    assert (second_pass(post, PAINTER, {}) or {})["scale"] == scale
    assert not list(fixed(post, PAINTER))


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"hr_upscaler": "Bilinear"}, "hr_upscaler"),
        ({"hr_scale": 1}, "hr_scale"),
        ({"hr_scale": 5}, "hr_scale"),
        ({"hr_resize_x": 32}, "hr_resize_x"),
        ({"hr_resize_x": 128, "hr_resize_y": 200}, "hr_resize_y"),
        ({"denoising_strength": 0}, "denoising_strength"),
    ],
)
def test_a_high_resolution_pass_that_can_t_be_is_refused_by_its_name_there(sent: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        second_pass(Txt2ImgSent.model_validate({"enable_hr": True, **sent}), PAINTER, {UPSCALER.id: UPSCALER})
    assert wrong.value.field == field
    assert wrong.value.bound


def test_what_the_second_pass_takes_from_the_first_is_told() -> None:
    own = {
        "hr_sampler_name": "Euler",
        "hr_prompt": "",
        "hr_scheduler": "Use same scheduler",
        "hr_upscaler": "Latent (x)",
    }
    own["hr_upscaler"] = "Latent (x)"
    told_of = fixed(Txt2ImgSent.model_validate({"enable_hr": True, **own}), PAINTER)
    assert [warning.field for warning in told_of] == ["hr_sampler_name", "hr_upscaler"]
    assert not list(fixed(Txt2ImgSent.model_validate(own), PAINTER))
    nearest = fixed(Txt2ImgSent.model_validate({"enable_hr": True, "hr_upscaler": "Nearest"}), PAINTER)
    assert [warning.message for warning in nearest] == ["hr_upscaler 'Nearest' counts as Lanczos"]


@pytest.mark.parametrize(
    ("count", "cells"), [(1, (1, 1)), (2, (2, 1)), (3, (2, 2)), (4, (2, 2)), (5, (3, 2)), (8, (3, 3))]
)
def test_a_sheet_has_the_rows_and_columns_of_the_web_ui_s(count: int, cells: tuple[int, int]) -> None:
    pictures = {index: Image.new("RGB", (4, 3) if index else (8, 6), (index, 0, 0)) for index in range(count)}
    sheet = grid(pictures, count)
    assert sheet.size == (8 * cells[0], 6 * cells[1])
    seen = [sheet.getpixel((8 * (k % cells[0]) + 7, 6 * (k // cells[0]) + 5)) for k in range(count)]
    assert seen == [(index, 0, 0) for index in range(count)]
