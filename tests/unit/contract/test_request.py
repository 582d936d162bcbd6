"""The union of requests: a kind has exactly its fields, and what it lacks stands for nothing."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from contract.base import Kind
from contract.measurements import JobWork
from contract.request import REQUESTS, Img2ImgRequest, InpaintRequest, parse_request
from contract.uploads import Upload
from models.samplers import compile_plan
from models.schedule import NoiseSchedule, ScheduleConfig

COMMON = {"model": "m", "width": 64, "height": 64, "steps": 10, "sampler": "ddim", "seed": 2**32 - 1}
IMAGE = Upload(path="image", sha256="0", bytes=1, width=8, height=8)
OWN: dict[str, dict[str, Any]] = {
    "txt2img": {"prompt": "red", "negative_prompt": "hat", "guidance_scale": 4.0, "original_size": (9, 8)},
    "inpaint": {"image": IMAGE, "mask": IMAGE, "mask_mode": "auto", "feather": 3, "strength": 0.5},
    "upscale": {"image": IMAGE, "noise_level": 20},
    "img2img": {
        "image": IMAGE,
        "strength": 0.5,
        "denoising_start": 0.5,
        "denoising_end": 0.9,
        "image_guidance_scale": 1.5,
    },
    "class2img": {"class_id": 3, "guidance_scale": 4.0},
    "semantic2img": {"image": IMAGE},
    "depth2img": {"image": IMAGE, "depth": IMAGE, "strength": 0.5},
    "layout2img": {"tokens": (3, 0, 99)},
}


def test_every_kind_has_a_model() -> None:
    assert tuple(REQUESTS) == get_args(Kind)
    assert tuple(OWN) == get_args(Kind)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_travels_as_it_is(kind: str) -> None:
    request = parse_request({"kind": kind, **COMMON, **OWN[kind]})
    assert type(request) is REQUESTS[kind]
    assert parse_request(request.model_dump(mode="json", round_trip=True)) == request
    assert request.model_dump(mode="json")["seeds"] == [2**32 - 1]
    fields = REQUESTS[kind].model_fields.items()
    written = {name for name, info in fields if info.exclude_if is None or not info.exclude_if(getattr(request, name))}
    assert set(request.model_dump(mode="json", round_trip=True)) == written


def test_where_steps_are_taken_and_guided_travels_too() -> None:
    changes = {"schedule": "karras", "timesteps": (900, 500, 3), "guidance_interval": (0.2, 0.8)}
    request = parse_request({"kind": "txt2img", **COMMON, "guidance_embedded": True, **changes})
    assert parse_request(request.model_dump(mode="json", round_trip=True)) == request
    assert request.guided_within == (0.2, 0.8)


@pytest.mark.parametrize(
    ("changes", "calls", "rows"),
    [
        ({}, 1, 20),
        ({"guidance_scale": 4.0}, 2, 40),
        ({"sampler": "heun"}, 1, 38),  # two images of ten steps, the last of one evaluation
        ({"sampler": "dpmpp_sde", "guidance_scale": 4.0}, 2, 76),
        ({"guidance_scale": 4.0, "guidance_interval": (0.2, 0.7)}, 2, 30),
        ({"guidance_scale": 8.5, "guidance_embedded": True}, 1, 20),
    ],
)
def test_estimates_know_how_often_the_network_is_asked(changes: dict[str, Any], calls: int, rows: int) -> None:
    request = parse_request({"kind": "txt2img", **COMMON, "num_images": 2, **changes})
    assert (request.rows_per_call, request.rows, request.run_steps) == (2 * calls, rows, 20)
    work = JobWork.of(request)
    assert work.rows == 2 * calls
    assert abs(work.steps * work.rows - rows) <= calls


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"steps": 100, "strength": 0.29}, 56),  # the float's 28.999…, as elsewhere
        ({"steps": 25, "denoising_start": 0.8}, 10),
        ({"steps": 20, "strength": 0.5, "denoising_end": 0.8}, 12),
        ({"steps": 5, "timesteps": (990, 980, 970, 900, 100), "denoising_start": 0.05}, 4),
        ({"steps": 5, "timesteps": (990, 980, 970, 900, 100), "strength": 0.6, "denoising_end": 0.5}, 4),
        ({"steps": 20, "denoising_start": 0.5, "guidance_interval": (0.25, 1.0)}, 15),
        ({"steps": 20, "strength": 0.5, "denoising_end": 0.75, "guidance_interval": (0.0, 0.3)}, 6),
    ],
)
def test_estimates_know_the_steps_of_a_part_of_the_way_as_the_engine_plans_them(
    changes: dict[str, Any], rows: int, spacing: Any
) -> None:
    request = parse_request({"kind": "img2img", **COMMON, "image": IMAGE, "guidance_scale": 4.0, **changes})
    plan = compile_plan(
        request.sampler, NoiseSchedule(ScheduleConfig(spacing=spacing)), request.steps, request.eta,
        request.denoising_strength, request.schedule, request.timesteps, request.guided_within, request.span,
    )  # fmt: skip
    assert request.run_steps == plan.steps
    assert request.rows == rows
    assert abs(2 * plan.steps - len(plan.unguided) - rows) <= 1


def test_estimates_count_controlnets_and_what_a_picture_leads() -> None:
    control = {"id": "a", "hash": "", "image": IMAGE}
    request = parse_request(
        {"kind": "txt2img", **COMMON, "guidance_scale": 4.0, "controls": [control, control | {"start": 0.5}]}
    )
    assert (request.rows_per_call, request.rows, JobWork.of(request).steps) == (2, 20 + 12, 16)
    edit = parse_request({"kind": "img2img", **COMMON, **OWN["img2img"], "guidance_scale": 4.0, "strength": 1.0})
    assert (edit.rows_per_call, edit.rows) == (3, edit.run_steps * 3)


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in OWN for own in OWN.values() for field in own])
def test_fields_of_other_kinds_are_refused(kind: str, field: str) -> None:
    known = field in REQUESTS[kind].model_fields
    value = next(own[field] for own in OWN.values() if field in own)
    values = {"kind": kind, **COMMON, **OWN[kind], field: value}
    if known:
        parse_request(values)
        return
    with pytest.raises(ValidationError, match="Extra inputs"):
        parse_request(values)


def test_what_a_kind_lacks_changes_nothing() -> None:
    request = parse_request({"kind": "semantic2img", **COMMON, **OWN["semantic2img"]})
    assert (request.text, request.negative_text, request.guided, request.class_label) == ("", "", False, None)
    assert (request.denoising_strength, request.run_steps, request.rows) == (1.0, 10, 10)
    assert (request.span, request.scores, request.rescale) == ((0.0, 1.0), (6.0, 2.5), 0.0)
    assert request.told_sizes == (request.height, request.width, 0, 0, request.height, request.width)


def test_what_is_told_of_a_picture_is_in_the_networks_order() -> None:
    told = {"original_size": [9, 8], "crop": [1, 2], "target_size": [7, 6], "aesthetic_score": 5.0}
    request = parse_request({"kind": "txt2img", **COMMON, **told, "negative_prompt": None, "denoising_end": 0.5})
    assert request.told_sizes == (8, 9, 2, 1, 6, 7)
    assert (request.scores, request.span, request.run_steps) == ((5.0, 2.5), (0.0, 0.5), 5)
    assert request.negative_text == ""


def test_what_a_kind_has_counts() -> None:
    inpaint = parse_request({"kind": "inpaint", **COMMON, **OWN["inpaint"], "num_images": 2, "guidance_scale": 2.0})
    assert isinstance(inpaint, InpaintRequest)
    assert (inpaint.run_steps, inpaint.rows, list(inpaint.files)) == (10, 20, ["image", "mask"])
    least = parse_request({"kind": "img2img", **COMMON, "image": IMAGE, "strength": 0.001})
    assert isinstance(least, Img2ImgRequest)
    assert least.run_steps == 1
    assert parse_request({"kind": "class2img", **COMMON, **OWN["class2img"]}).class_label == 3
    assert parse_request({"kind": "upscale", **COMMON, **OWN["upscale"]}).class_label == 20


@pytest.mark.parametrize(("kind", "field"), [("class2img", "class_id"), ("inpaint", "mask"), ("upscale", "image")])
def test_what_a_kind_needs_is_there(kind: str, field: str) -> None:
    values = {"kind": kind, **COMMON, **OWN[kind]}
    for missing in ({name: value for name, value in values.items() if name != field}, {**values, field: None}):
        with pytest.raises(ValidationError, match=field):
            parse_request(missing)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_no_guidance_is_one_row(scale: float) -> None:
    request = parse_request({"kind": "txt2img", **COMMON, **OWN["txt2img"], "guidance_scale": scale})
    assert (request.guided, request.rows, request.guidance) == (False, 10, scale)
