"""The pass at a higher resolution, resolved: defaults, bounds by name, and what it adds to estimates."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from contract.add_ons import AppliedControl
from contract.measurements import JobWork, step_times
from contract.request import Txt2ImgRequest
from contract.stages import models_of, share_done, stages
from contract.uploads import Upload
from core.errors import InvalidRequest, LatentdError, NotFound
from service.admission.estimates import Backlog, Fleet, estimate
from service.requests.bodies import Body
from service.requests.posts import HiresPost, Txt2ImgPost
from service.requests.resolution import Known, resolve, warnings_of
from service.requests.uploads import Pictures
from tests.gateway import PAINTER, UPSCALER
from tests.times import cells

KNOWN = Known({}, {}, {}, {card.id: card for card in (PAINTER, UPSCALER)})
FIELDS = (*PAINTER.fields, "denoising_end")
CARD = PAINTER.model_copy(update={"samplers": (*PAINTER.samplers, "lcm"), "fields": FIELDS})


def resolved(hires: HiresPost | None, max_pixels: int = 2**24, **fields: object) -> Txt2ImgRequest:
    body = Body("txt2img", Txt2ImgPost.model_validate({"hires": hires, **fields}), {})
    request = resolve(body, CARD, Pictures({}, {}), 7, "png", max_pixels, KNOWN)
    assert isinstance(request, Txt2ImgRequest)
    return request


def test_defaults_are_the_requests() -> None:
    request = resolved(HiresPost(), steps=12)
    assert request.hires is not None
    assert request.hires.model_dump() == {"scale": 2.0, "strength": 0.5, "steps": 12, "upscaler": "lanczos"}
    assert (request.run_steps, request.width, models_of(request)) == (18, 64, ("painter",))
    assert resolved(None).hires is None
    assert "hires" not in resolved(None).model_dump(mode="json", round_trip=True)


def test_a_model_that_enlarges_comes_with_its_own_defaults() -> None:
    request = resolved(HiresPost(upscaler="upscaler", steps=10), num_images=2)
    assert request.hires is not None
    assert request.hires.enlarged_by is not None
    assert (request.hires.enlarged_by.hash, request.hires.enlarged_by.steps) == (UPSCALER.hash, 8)
    assert request.run_steps == 2 * (20 + 8 + 5)
    assert models_of(request) == ("painter", "upscaler")
    assert [(part.kind, part.width, part.model) for part in stages(request)] == [
        ("txt2img", 64, "painter"),
        ("upscale", 256, "upscaler"),
        ("img2img", 128, "painter"),
    ]


def test_what_enlarges_between_the_passes_writes_no_file_whose_format_could_bound_it() -> None:
    wide = resolved(HiresPost(upscaler="upscaler", scale=1.5), width=4160, height=64)
    webp = wide.model_copy(update={"output_format": "webp"})  # which holds 16,383 pixels a side
    parts = [(part.width, part.output_format) for part in stages(webp)]
    assert parts == [(4160, "webp"), (16640, "png"), (6240, "webp")]


def test_a_controlnet_that_no_step_of_a_pass_is_within_is_told() -> None:
    control = {"id": "lines", "image": Upload(path="", sha256="", bytes=0, width=64, height=64), "hash": "b" * 64}
    drawn = resolved(HiresPost(steps=2, strength=0.5), steps=4)
    parts = [{"start": 0.3, "end": 0.6}, {"end": 0.25}, {"start": 0.2, "end": 0.8}]
    controls = tuple(AppliedControl.model_validate(control | part) for part in parts)
    told = warnings_of(drawn.model_copy(update={"controls": controls}), CARD, None)
    assert {each.field for each in told} == {"controls"}
    assert [each.message for each in told] == [
        "lines has no effect: no step of 4 is between start 0.3 and end 0.6",
        "lines has no effect: no step of 1 of hires is between start 0.3 and end 0.6",
        "lines has no effect: no step of 1 of hires is between start 0 and end 0.25",
        "lines has no effect: no step of 1 of hires is between start 0.2 and end 0.8",
    ]
    part = resolved(None, steps=4, denoising_end=0.5)  # of how many steps, the worker alone knows
    assert warnings_of(part.model_copy(update={"controls": controls}), CARD, None) == ()


@pytest.mark.parametrize("steps", [None, 60])
def test_the_second_pass_visits_a_list_of_timesteps_too_however_long_it_is(steps: int | None) -> None:
    sent = list(range(999, 939, -1))  # more than lcm has of its own
    listed = resolved(HiresPost(steps=steps), timesteps=sent, sampler="lcm")
    assert [part.timesteps for part in stages(listed)] == [tuple(sent)] * 2
    assert listed.run_steps == 60 + 30


@pytest.mark.parametrize(
    ("hires", "fields", "field", "value"),
    [
        ({"scale": 1.01}, {}, "hires.scale", 1.01),
        ({"scale": 1.5}, {"width": 72, "height": 64}, "hires.scale", 1.5),
        ({"scale": 4.0}, {"width": 256, "height": 256}, "hires.scale", 4.0),
        ({"upscaler": "upscaler"}, {"width": 200, "height": 200}, "hires.upscaler", "800×800"),
        ({"upscaler": "painter"}, {}, "hires.upscaler", "painter"),
        ({"upscaler": "unheard"}, {}, "hires.upscaler", "unheard"),
        ({"steps": 51}, {"sampler": "lcm"}, "hires.steps", 51),
        ({"steps": 9}, {"timesteps": [900, 500, 100]}, "hires.steps", 9),
        ({}, {"denoising_end": 0.5}, "hires", 0.5),
    ],
)
def test_what_can_t_be_done_is_refused_by_name(
    hires: dict[str, object], fields: dict[str, object], field: str, value: object
) -> None:
    with pytest.raises(LatentdError) as refused:
        resolved(HiresPost.model_validate(hires), 500_000, **fields)
    assert isinstance(refused.value, InvalidRequest | NotFound)
    assert (refused.value.field, refused.value.value) == (field, value)
    assert refused.value.bound


@pytest.mark.parametrize(
    "bad", [{"scale": 1}, {"scale": 4.1}, {"strength": 0}, {"steps": 0}, {"upscaler": ""}, {"x": 1}]
)
def test_bounds(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Txt2ImgPost.model_validate({"hires": bad})


def test_forms_have_it_as_json_text() -> None:
    post = Txt2ImgPost.model_validate_strings({"hires": '{"scale": 2.5, "steps": 3}'})
    assert post.hires == HiresPost(scale=2.5, steps=3)


def test_steps_of_the_second_pass_count_by_their_pixels() -> None:
    twice = resolved(HiresPost(strength=1.0), num_images=2)
    assert [share_done(twice, step, 80) for step in (0, 40, 60, 80)] == pytest.approx([0, 1 / 5, 3 / 5, 1])
    assert share_done(resolved(None), 5, 20) == share_done(resolved(None), 10, 40) == 0.25


def test_estimates_count_both_passes_and_what_enlarges() -> None:
    plain, twice = resolved(None, guidance_scale=4.0), resolved(HiresPost(strength=1.0), guidance_scale=4.0)
    work = JobWork.of(twice)
    assert (work.width, work.height, work.steps, work.rows) == (128, 128, 20 + 5, 2)
    assert JobWork.parse(str(work)) == work
    fleet = Fleet({"cpu": step_times("painter", 8, cells(row_s=0.1, decode=1.0, store=0.5))}, {"cpu": 1})
    seconds = [estimate(request, Backlog(fleet)).gpu_s or 0.0 for request in (plain, twice)]
    assert seconds[1] > 4 * seconds[0] * 0.9
    assert JobWork.of(resolved(HiresPost(upscaler="upscaler"))).steps > JobWork.of(resolved(HiresPost())).steps
