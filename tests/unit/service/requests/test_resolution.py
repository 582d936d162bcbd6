"""Resolution by card: defaults, refusals, sizes, warnings, seeds and estimates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from contract.base import Kind
from contract.measurements import step_times
from contract.request import JobRequest, Txt2ImgRequest
from contract.uploads import Upload
from core.errors import InvalidRequest, NoCheckpoint, NotFound, QueueFull
from service.admission.estimates import Backlog, Fleet, estimate, idle_seconds, queued_eta
from service.requests.bodies import Body
from service.requests.cards import choose_card, installed_cards
from service.requests.posts import InpaintPost, Post, Txt2ImgPost, UpscalePost
from service.requests.resolution import resolve, warnings_of
from service.requests.tokens import count_tokens
from service.requests.uploads import Pictures
from service.submit import check_deadline
from tests.gateway import PAINTER, UPSCALER, WINDOW, write_cards
from tests.times import cells

CARDS = {card.id: card for card in (PAINTER, UPSCALER)}
TIMES = step_times("painter", 8, cells(row_s=0.1, decode=1.0, store=0.5))
FLEET = Fleet({"cpu": TIMES}, {"cpu": 1})
UNMEASURED = Backlog(jobs=10**6)


def resolved(post: Post, kind: Kind = "txt2img", size: tuple[int, int] | None = None) -> JobRequest:
    names = {"txt2img": (), "inpaint": ("image", "mask"), "upscale": ("image",)}[kind]
    width, height = size or (0, 0)
    uploads = {name: Upload(path=name, sha256="", bytes=1, width=width, height=height) for name in names}
    body = Body(kind, post, dict.fromkeys(names, b""))
    card = UPSCALER if kind == "upscale" else PAINTER
    return resolve(body, card, Pictures(uploads, {}), 7, post.output_format or "png", 2**24)


def test_defaults_are_the_models() -> None:
    request = resolved(Txt2ImgPost(prompt="red"))
    assert (request.width, request.height, request.steps) == (64, 64, 20)
    assert (request.sampler, request.guidance, request.eta) == ("ddim", 4.0, 0.0)
    assert isinstance(request, Txt2ImgRequest)
    assert resolved(UpscalePost(), "upscale", (9, 7)).guidance == 1.0


def test_zero_is_no_default() -> None:
    assert resolved(Txt2ImgPost(guidance_scale=0.0)).guidance == 0.0


def test_sizes() -> None:
    assert (lambda r: (r.width, r.height))(resolved(InpaintPost(), "inpaint", (33, 1))) == (33, 1)
    assert (lambda r: (r.width, r.height))(resolved(UpscalePost(), "upscale", (1, 5))) == (4, 20)
    with pytest.raises(InvalidRequest, match="webp holds at most 16383"):
        resolved(Txt2ImgPost(width=20_000, height=64, output_format="webp"))
    with pytest.raises(InvalidRequest, match="jpeg holds at most 65500"):
        resolved(Txt2ImgPost(width=64, height=70_000, output_format="jpeg"))
    with pytest.raises(InvalidRequest, match="width makes"):
        resolved(Txt2ImgPost(width=2**18 + 1, height=64))


def test_a_field_that_the_model_lacks() -> None:
    body = Body("txt2img", Txt2ImgPost(negative_prompt="x"), {})
    card = PAINTER.model_copy(update={"fields": ("prompt", "steps")})
    with pytest.raises(InvalidRequest) as caught:
        resolve(body, card, Pictures({}, {}), 0, "png", 2**24)
    assert (caught.value.field, caught.value.bound) == ("negative_prompt", ["prompt", "steps"])


def test_choice_of_the_model() -> None:
    assert choose_card(CARDS, "txt2img", None, "painter").id == "painter"
    assert choose_card(CARDS, "upscale", None, "painter").id == "upscaler"
    with pytest.raises(NotFound, match="painter, upscaler"):
        choose_card(CARDS, "txt2img", "sd15", "painter")
    with pytest.raises(InvalidRequest, match="can't upscale; models that can: upscaler"):
        choose_card(CARDS, "upscale", "painter", "painter")
    with pytest.raises(NoCheckpoint, match="latentd models convert"):
        choose_card({}, "txt2img", None, "painter")


def test_tokens_and_what_is_cut(tmp_path: Path) -> None:
    folder = write_cards(tmp_path, PAINTER) / "painter"
    assert installed_cards(tmp_path) == {"painter": PAINTER}
    exact = "red heart on a navy background"
    assert count_tokens(PAINTER, folder, exact).model_dump() == {"count": WINDOW, "specials": 2, "cut": None}
    longer = count_tokens(PAINTER, folder, exact + "  With Stars ")
    assert longer.model_dump() == {"count": 10, "specials": 2, "cut": "With Stars"}
    assert count_tokens(PAINTER, folder, "").count == 2
    assert count_tokens(UPSCALER, folder, "x").count is None
    long = resolved(Txt2ImgPost(prompt=exact + " with stars", negative_prompt=exact, guidance_scale=1.0))
    cut, unused = warnings_of(long, PAINTER, folder)
    assert (cut.field, unused.field) == ("prompt", "negative_prompt")
    assert cut.message == "prompt is longer than the 6 tokens that the model reads; cut: “with stars”"


def test_what_only_guidance_uses_is_told_where_there_is_none() -> None:
    sent: dict[str, Any] = {"guidance_interval": [0.2, 0.8], "guidance_rescale": 0.7, "negative_prompt": "hat"}
    card = PAINTER.model_copy(update={"fields": (*PAINTER.fields, "guidance_rescale")})
    posts = [Txt2ImgPost(**sent, guidance_scale=scale) for scale in (1.0, 4.0)]
    off, on = (resolve(Body("txt2img", post, {}), card, Pictures({}, {}), 7, "png", 2**24) for post in posts)
    assert [(each.field, each.message) for each in warnings_of(off, card, None)] == [
        (field, f"{field} has no effect at guidance_scale 1")
        for field in ("negative_prompt", "guidance_interval", "guidance_rescale")
    ]
    assert warnings_of(on, card, None) == ()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"guidance_interval": [0.95, 1.0], "steps": 10}, True),
        ({"guidance_interval": [0.95, 1.0], "steps": 40}, False),
        ({"guidance_interval": [0.95, 1.0], "timesteps": [999, 980, 965, 10]}, False),
        ({"guidance_interval": [0.3, 0.9], "timesteps": [999, 980, 965, 10]}, True),
        ({"guidance_interval": [0.9, 0.97], "steps": 10, "hires": {"steps": 20}}, True),
        ({"guidance_interval": [0.88, 1.0], "timesteps": [999, 900, 700, 300], "denoising_end": 0.5}, False),
        ({"guidance_interval": [0.05, 0.35], "timesteps": [999, 900, 700, 300], "denoising_end": 0.5}, True),
        ({"guidance_interval": [0.3, 0.35], "steps": 10, "hires": {"steps": 40}}, False),
    ],
)
def test_an_interval_that_no_step_may_fall_into_is_told(sent: dict[str, Any], told: bool) -> None:
    post = Txt2ImgPost.model_validate({"guidance_scale": 4.0, **sent})
    card = PAINTER.model_copy(update={"fields": (*PAINTER.fields, "denoising_end")})
    request = resolve(Body("txt2img", post, {}), card, Pictures({}, {}), 7, "png", 2**24)
    assert [each.field for each in warnings_of(request, card, None)] == ["guidance_interval"] * told


def test_a_cards_tokenizer_is_in_its_folder(tmp_path: Path) -> None:
    folder = write_cards(tmp_path, PAINTER) / "painter"
    outside = (folder / str(PAINTER.tokenizer)).rename(tmp_path / "outside.json")
    for path in ("../outside.json", str(outside)):
        assert count_tokens(PAINTER.model_copy(update={"tokenizer": path}), folder, "red").count is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokens_are_not_counted_by_a_damaged_tokenizer(tmp_path: Path, name: str) -> None:
    folder = write_cards(tmp_path, PAINTER) / "painter"
    (folder / str(PAINTER.tokenizer)).with_name(name).write_text("{cut o")
    with capture_logs() as logs:
        assert [count_tokens(PAINTER, folder, text).count for text in ("red", "blue")] == [None, None]
    assert [each["event"] for each in logs] == ["tokens aren't counted"]


def test_a_broken_card_is_left_out(tmp_path: Path) -> None:
    write_cards(tmp_path, UPSCALER)
    for name, text in (("empty", ""), ("other", "[]"), ("wrong", '{"id": 5}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(text)
    assert list(installed_cards(tmp_path)) == ["upscaler"]


def test_estimates() -> None:
    request = resolved(Txt2ImgPost(num_images=2))
    idle = Backlog(FLEET, {"cpu": 0.0})
    assert idle_seconds(request, FLEET) == pytest.approx(20 * 4 * 0.1 + 2 * 1.0 + 0.5)
    assert estimate(request, idle).model_dump() == {"wait_s": 0.0, "gpu_s": pytest.approx(10.0)}, "storing isn't GPU's"
    unmeasured = estimate(request, UNMEASURED)
    assert (unmeasured.wait_s, unmeasured.gpu_s) == (None, None)
    busy = Backlog(replace(FLEET, workers={"cpu": 2}), {"cpu": 30.0}, jobs=3, queued=3)
    assert busy.wait_s(request) == pytest.approx(15)
    assert queued_eta(request, busy, 0) == pytest.approx(10.5), "the others are behind it"
    assert queued_eta(request, busy, 2) == pytest.approx((30 - 10) / 2 + 10.5)


def test_strength_leaves_the_last_steps() -> None:
    half = resolved(InpaintPost(strength=0.55, num_images=2), "inpaint", (8, 8))
    assert (half.run_steps, half.rows) == (22, 44)
    assert resolved(InpaintPost(strength=0.001), "inpaint", (8, 8)).run_steps == 1


def test_deadlines() -> None:
    request = resolved(Txt2ImgPost(deadline_ms=6000))
    check_deadline(request, UNMEASURED)
    check_deadline(request, Backlog(FLEET, {"cpu": 0.0}))
    with pytest.raises(QueueFull, match="jobs before and beside it take about 4"):
        check_deadline(request, Backlog(FLEET, {"cpu": 4.0}))
    with pytest.raises(InvalidRequest, match="with nothing before it"):
        check_deadline(resolved(Txt2ImgPost(deadline_ms=1000)), Backlog(FLEET, {"cpu": 0.0}))


def refused(post: Post) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        resolved(post)
    return caught.value.field, caught.value.detail


def test_schedules_and_timesteps() -> None:
    assert resolved(Txt2ImgPost(sampler="ddim", schedule="karras")).schedule == "karras"
    listed = resolved(Txt2ImgPost(sampler="ddim", timesteps=[999, 500, 3]))
    assert (listed.steps, listed.timesteps, listed.schedule, listed.run_steps) == (3, (999, 500, 3), None, 3)
    assert refused(Txt2ImgPost(timesteps=[5, 5]))[0] == "timesteps"
    assert refused(Txt2ImgPost(timesteps=[5], steps=3)) == (
        "steps",
        "timesteps say which steps there are; leave out steps, which is 3",
    )
    assert refused(Txt2ImgPost(timesteps=[5], schedule="karras"))[0] == "schedule"


def test_distilled_samplers_have_steps_of_their_own() -> None:
    card = PAINTER.model_copy(update={"samplers": (*PAINTER.samplers, "lcm", "tcd")})
    card = card.model_copy(update={"defaults": card.defaults.model_copy(update={"steps": 80, "schedule": "karras"})})

    def of(post: Txt2ImgPost) -> JobRequest:
        return resolve(Body("txt2img", post, {}), card, Pictures({}, {}), 7, "png", 2**24)

    assert (of(Txt2ImgPost(sampler="lcm")).steps, of(Txt2ImgPost(sampler="lcm")).schedule) == (50, None)
    assert (of(Txt2ImgPost()).steps, of(Txt2ImgPost()).schedule) == (80, "karras")
    assert of(Txt2ImgPost(sampler="tcd", steps=4)).eta == 0.3
    for post, field in (
        (Txt2ImgPost(sampler="lcm", steps=51), "steps"),
        (Txt2ImgPost(sampler="tcd", steps=4, schedule="normal"), "schedule"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            of(post)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("first", "own", "sampler", "eta"),
    [("tcd", 0.3, "ddim", 0.0), ("tcd", 0.2, "tcd", 0.2), ("ddim", 0.2, "tcd", 0.3), ("euler", 0.2, "ddim", 0.2)],
)
def test_a_card_s_eta_is_of_its_own_sampler(first: str, own: float, sampler: str, eta: float) -> None:
    defaults = PAINTER.defaults.model_copy(update={"sampler": first, "eta": own})
    card = PAINTER.model_copy(update={"samplers": (*PAINTER.samplers, "tcd"), "defaults": defaults})
    post = Txt2ImgPost(sampler=sampler, steps=4)
    assert resolve(Body("txt2img", post, {}), card, Pictures({}, {}), 7, "png", 2**24).eta == eta


def test_guidance_intervals() -> None:
    request = resolved(Txt2ImgPost(guidance_interval=[0.2, 0.7]))
    assert request.guided_within == (0.2, 0.7)
    assert request.rows == 30
    assert refused(Txt2ImgPost(guidance_interval=[0.7, 0.2]))[0] == "guidance_interval"
    with pytest.raises(InvalidRequest, match="of no use to model"):
        resolved(UpscalePost(guidance_interval=[0.2, 0.7]), "upscale", (8, 8))
