"""The pass at a higher resolution: what it equals, that each stage shares calls and resumes, and what clients see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load, save

from contract.add_ons import AppliedUpscaler, Hires
from contract.request import Img2ImgRequest, JobRequest, UpscaleRequest
from contract.stages import models_of, stages
from contract.uploads import control_name
from core.errors import InvalidRequest, JobFailed
from models.inputs import Inputs
from models.pipeline.sampling import Conditioning, sample
from models.samplers.noise import STEP, X_T, noise
from tests import controls, loras
from tests.engines import (
    admitted,
    finished,
    inpaint,
    make_engine,
    make_request,
    mask_bytes,
    picture_bytes,
    play,
    tiny_models,
)
from workers.engine.conditioning import placed
from workers.engine.decoding import enlarge
from workers.engine.engine import Engine
from workers.engine.kinds import job_spec_of, prepare
from workers.engine.messages import Aborted, Admission, Called, Enlarged, Outcome, Stepped
from workers.engine.pictures import Frame, picture_text, to_picture, to_tensor
from workers.prompts import PromptCache

UP = AppliedUpscaler(id="up", hash="c0ffee", scale=4, steps=3, sampler="ddim")
WAYS = ("latent", "lanczos", "up")
SECOND = "hires img2img "
FIRST = 4  # steps of the first pass of jobs with add-ons


def hires(upscaler: str = "latent", **changes: object) -> Hires:
    by = UP if upscaler == "up" else None
    fields = {"scale": 2.0, "strength": 0.5, "steps": 8, "upscaler": upscaler, "enlarged_by": by}
    return Hires.model_validate(fields | changes)


def drawn(upscaler: str = "latent", **changes: object) -> JobRequest:
    return make_request(**{"hires": hires(upscaler), "determinism": "strict"} | changes)


def alone(request: JobRequest) -> Image.Image:
    return finished(play(make_engine(), [Admission("a", request)]))["a", 0]


def _second_by_hand(request: JobRequest, made: Image.Image, seed: int) -> torch.Tensor:
    """img2img over a picture of the final size, sampled by itself with the second pass's noise; 1 c h w."""
    model = tiny_models()["paint"]
    spec = job_spec_of(request, {"image": made}, model, 10**7)
    conditions = placed(prepare(spec, PromptCache()), model)
    assert conditions.unconditional is not None
    told = Conditioning(Inputs.stack([conditions.inputs]), Inputs.stack([conditions.unconditional]), request.guidance)
    x_T = noise(seed, SECOND + X_T, 0, spec.latent_shape)
    z = spec.plan.start.alpha * model.encode_images(to_tensor(made)) + spec.plan.start.sigma * x_T[None]
    return sample(model, spec.plan, z, told, lambda i: noise(seed, SECOND + STEP, i, spec.latent_shape)[None])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_it_is_txt2img_then_img2img_over_the_enlarged_picture(eta: float) -> None:
    whole = drawn("lanczos", eta=eta)
    first, second = stages(whole)
    assert isinstance(second, Img2ImgRequest)
    made = alone(first).resize((128, 128), Image.Resampling.LANCZOS)
    with torch.inference_mode():
        z = _second_by_hand(second, made, whole.seed)
        by_hand = to_picture(tiny_models()["paint"].decode(z)[0])
    levels = np.abs(np.array(alone(whole), np.int16) - np.array(by_hand, np.int16))
    assert levels.max() <= 1, "1e-3 of the latents is less than a level"


def test_a_model_enlarges_as_an_upscale_job_does_but_for_its_noise() -> None:
    whole = drawn("up")
    first, between, second = stages(whole)
    assert isinstance(between, UpscaleRequest)
    assert (between.model, between.width, between.steps, between.guided) == ("up", 256, 3, False)
    assert (second.width, second.height, second.model) == (128, 128, "paint")
    assert models_of(whole) == ("paint", "up")
    outcomes = play(make_engine(), [Admission("a", whole)])
    models = [outcome.model for outcome in outcomes if isinstance(outcome, Called)]
    assert models == ["paint"] * 4 + ["up"] * 3 + ["paint"] * 4
    assert finished(outcomes)["a", 0].size == (128, 128)
    assert models_of(first) == ("paint",)


@pytest.mark.parametrize("upscaler", WAYS)
def test_its_bytes_are_the_same_among_neighbours_and_where_outcomes_are_read_late(upscaler: str) -> None:
    request = drawn(upscaler, num_images=2)
    neighbours = [
        Admission("n", make_request(steps=9, seed=3, guidance_scale=1.0)),
        Admission("o", make_request(width=128, height=128, steps=11, determinism="strict")),
        inpaint("i", picture_bytes(128, 128), mask_bytes(128, 128), steps=7),
        Admission("h", drawn("latent", seed=11, steps=5)),
    ]
    single = finished(play(make_engine(), [Admission("a", request)]))
    for as_gpu in (False, True):
        engine = make_engine(as_gpu=as_gpu)
        outcomes = play(engine, [neighbours[0], Admission("a", request), *neighbours[1:]])
        assert all(finished(outcomes)["a", k].tobytes() == single["a", k].tobytes() for k in range(2))
    large = [o for o in outcomes if isinstance(o, Called) and o.shape == (4, 16, 16)]
    assert max(o.slots for o in large) > 1, "the second pass shares calls"


def _broken(request: JobRequest, step: int) -> bytes:
    """Run up to a step, and return the state there."""
    engine = make_engine()
    engine.admit(Admission("a", request))
    reached = 0
    while reached < step:
        steps = [o.step for o in engine.turn() if isinstance(o, Stepped)]
        reached = max([reached, *steps])
    state = engine.snapshot("a")
    assert state is not None
    return state


@pytest.mark.parametrize("upscaler", WAYS)
def test_it_resumes_in_every_stage_with_the_bytes_of_an_unbroken_run(upscaler: str) -> None:
    request = drawn(upscaler, sampler="dpmpp_2m_sde", num_images=2)
    whole = play(make_engine(), [Admission("a", request)])
    steps = [o for o in whole if isinstance(o, Stepped)]
    assert steps[-1].steps == request.run_steps
    stages_seen = set()
    for step in range(1, request.run_steps, 3):
        state = _broken(request, step)
        stages_seen |= {int(tensor) for name, tensor in load(state).items() if name.endswith("stage")}
        outcomes = play(make_engine(), [Admission("a", request, snapshot=state)])
        calls = sum(isinstance(o, Called) for o in outcomes)
        assert calls < sum(isinstance(o, Called) for o in whole)
        assert all(finished(outcomes)["a", k].tobytes() == finished(whole)["a", k].tobytes() for k in range(2))
    assert stages_seen == set(range(1, len(stages(request))))


def test_states_of_other_stages_start_the_job_anew() -> None:
    one, two = drawn("latent"), drawn("up")
    larger, by_model = drawn("latent", hires=hires("latent", scale=3.0)), drawn("up", width=96)
    pairs = ((one, _broken(two, 9)), (two, _broken(one, 7)), (stages(one)[0], _broken(one, 7)))
    other_shapes = ((larger, _broken(one, 7)), (one, _broken(larger, 7)), (by_model, _broken(two, 5)))
    for request, state in (*pairs, *other_shapes):
        outcomes = play(make_engine(), [Admission("a", request, snapshot=state)])
        assert finished(outcomes)["a", 0].tobytes() == alone(request).tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        {"0.latents": torch.zeros(0, 4, 16, 16)},
        {"0.latents": torch.zeros(16, 16)},
        {"0.position": torch.tensor([-1])},
        {"0.stage": torch.tensor([-1])},
        {"0.picture": torch.zeros(8, 8, 3, dtype=torch.uint8)},
        {"0.picture": torch.zeros(64, 64, 3)},
    ],
)
def test_states_that_fit_no_stage_start_the_job_anew(damage: dict[str, torch.Tensor]) -> None:
    request = drawn("up")
    state = save(load(_broken(request, 5)) | damage)
    outcomes = play(make_engine(), [Admission("a", request, snapshot=state)])
    assert finished(outcomes)["a", 0].tobytes() == alone(request).tobytes()


def test_progress_and_previews_go_through_all_stages() -> None:
    request = drawn("up", preview_every=3, steps=5, hires=hires("up", steps=4, strength=1.0))
    outcomes = play(make_engine(), [Admission("a", request)])
    steps = [o for o in outcomes if isinstance(o, Stepped)]
    assert [o.step for o in steps] == list(range(1, 13))
    assert {o.steps for o in steps} == {request.run_steps} == {12}
    assert [o.step for o in steps if o.previews] == [3, 6, 9]
    assert sum(isinstance(o, Enlarged) for o in outcomes) == 2


@pytest.mark.parametrize("upscaler", WAYS)
def test_progress_never_goes_back_where_calls_are_read_late(upscaler: str) -> None:
    request = drawn(upscaler, preview_every=2, num_images=2, determinism="fast", guidance_interval=(0.2, 0.7))
    outcomes = play(make_engine(as_gpu=True), [Admission("a", request)])
    steps = [o for o in outcomes if isinstance(o, Stepped)]
    assert [o.step for o in steps] == sorted({o.step for o in steps})
    assert steps[-1].step == request.run_steps
    assert {index for o in steps for index in o.previews} == {0, 1}


def test_it_ends_in_the_second_stage_where_it_is_dropped_or_late() -> None:
    now = 0.0
    engine = make_engine(clock=lambda: now)
    engine.admit(Admission("a", drawn(), deadline=5.0))
    engine.admit(Admission("b", drawn(seed=1)))
    _until_second(engine)
    engine.drop("b")
    now = 6.0
    outcomes = play(engine)
    assert [o.job_id for o in outcomes if isinstance(o, Aborted)] == ["a"]
    assert not finished(outcomes)


def _until_second(engine: Engine) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while not any(isinstance(o, Called) and o.shape == (4, 16, 16) for o in outcomes):
        outcomes += engine.turn()
    return outcomes


def test_a_latent_is_resized_as_interpolation_does_where_nothing_is_padded() -> None:
    z = torch.randn(4, 8, 12)
    made = enlarge(z, Frame(96, 64, 32), Frame(192, 128, 32), 8)
    expected = F.interpolate(z[None], scale_factor=2.0, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(made, expected)


def test_a_latent_keeps_its_picture_in_the_frame_where_it_is_padded() -> None:
    before, after = Frame(72, 64, 32), Frame(108, 96, 32)
    assert (before.padded, after.padded, before.offset[0], after.offset[0]) == ((96, 64), (128, 96), 12, 10)
    ramp = (torch.arange(12.0) + 0.5).expand(1, 8, 12) * 8 - 12  # the pixel of the picture at each cell's middle
    made = enlarge(ramp, before, after, 8)
    pixels = ((torch.arange(16.0) + 0.5) * 8 - 10) / 1.5
    inside = (pixels > 0) & (pixels < 72)
    torch.testing.assert_close(made[0, 5][inside], pixels[inside], atol=1e-3, rtol=0)


@pytest.mark.parametrize("upscaler", WAYS)
@pytest.mark.parametrize("size", [(72, 64), (100, 68)])
def test_any_size_is_answered(upscaler: str, size: tuple[int, int]) -> None:
    request = drawn(upscaler, width=size[0], height=size[1], steps=1, hires=hires(upscaler, scale=1.5, steps=1))
    assert alone(request).size == (round(size[0] * 1.5), round(size[1] * 1.5))


def test_without_it_requests_and_bytes_are_as_before() -> None:
    plain = make_request(determinism="strict")
    assert "hires" not in plain.model_dump(mode="json", round_trip=True)
    assert stages(plain) == (plain,)
    state = _broken(plain, 2)
    assert sorted(load(state)) == ["0.latents", "0.position"]
    assert "ires" not in json.dumps(picture_text(plain, 0, "abc"))


def test_the_picture_says_how_it_was_made() -> None:
    text = picture_text(drawn("latent"), 0, "abc")
    assert "Size: 64x64" in text["parameters"]
    assert "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 8, Hires upscaler: Latent" in text["parameters"]
    said = json.loads(picture_text(drawn("up"), 0, "abc")["latentd"])["request"]["hires"]
    assert (said["upscaler"], said["enlarged_by"]["hash"]) == ("up", "c0ffee")


def test_a_size_or_a_model_that_can_t_be_used_is_refused_by_name() -> None:
    small = Engine(tiny_models(), device="cpu", threads=1, max_rows=4, strict_rows=4, max_pixels=200 * 200)
    with pytest.raises(InvalidRequest, match="256×256"):
        small.admit(Admission("a", drawn("up")))
    with pytest.raises(JobFailed, match="model up isn't loaded"):
        make_engine({"paint": tiny_models()["paint"]}).admit(Admission("a", drawn("up")))


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    loras.write_loras(folder)
    controls.write_controls(folder)
    return folder


def _adding_engine(models_dir: Path) -> Engine:
    libraries = {"loras": loras.library_of(models_dir), "controlnets": controls.library_of(models_dir)}
    return make_engine({"pipeline": loras.small_sd()}, **libraries)  # type: ignore[arg-type]


def _adding_job(models_dir: Path, lora: float, control: float, snapshot: bytes | None = None) -> Admission:
    request = make_request(
        model="pipeline",
        steps=FIRST,
        determinism="strict",
        hires=hires(),
        loras=loras.applied(models_dir, style=lora),
        controls=[controls.applied(models_dir, "any", scale=control)],
    )
    return admitted("a", request, {control_name(0): picture_bytes(64, 64)}, snapshot=snapshot)


def _state_in_the_second_pass(models_dir: Path) -> bytes:
    engine, reached = _adding_engine(models_dir), 0
    engine.admit(_adding_job(models_dir, lora=1.0, control=1.0))
    while reached <= FIRST:
        reached = max([reached, *(o.step for o in engine.turn() if isinstance(o, Stepped))])
    state = engine.snapshot("a")
    assert state is not None
    return state


def test_the_second_pass_too_is_of_a_lora_and_a_controlnet(models_dir: Path) -> None:
    """From one state within it, a job ends in another picture as soon as it loses either."""
    state = _state_in_the_second_pass(models_dir)
    scales = {"both": (1.0, 1.0), "control": (0.0, 1.0), "lora": (1.0, 0.0)}
    ends = {
        name: play(_adding_engine(models_dir), [_adding_job(models_dir, *pair, state)]) for name, pair in scales.items()
    }
    assert {o.step for each in ends.values() for o in each if isinstance(o, Stepped)} <= set(range(FIRST + 1, 9))
    pictures = {name: finished(outcomes)["a", 0] for name, outcomes in ends.items()}
    assert {picture.size for picture in pictures.values()} == {(128, 128)}
    assert len({picture.tobytes() for picture in pictures.values()}) == 3
    unbroken = finished(play(_adding_engine(models_dir), [_adding_job(models_dir, 1.0, 1.0)]))["a", 0]
    assert pictures["both"].tobytes() == unbroken.tobytes()
