"""Rows with different ControlNets, several, and none share one UNet call, each with the result that it has alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.add_ons import CONTROL_ROW
from contract.uploads import control_name
from core.errors import InvalidRequest
from models.inputs import Inputs
from models.networks.controlnet import Control, ControlNet, RowControls
from models.networks.unet import UNet
from models.pipeline.config import Concat
from models.pipeline.denoiser import Denoiser
from tests.controls import applied, controlled_sd, library_of, write_controls
from tests.engines import admitted, failures, finished, make_engine, make_request, picture_bytes, play
from workers.engine.engine import Engine
from workers.engine.messages import Admission, Called, Prepared, Stepped

JOBS: dict[str, dict[str, object]] = {
    "none": {"sampler": "ddim", "guidance_scale": 4.0},
    "lines": {"sampler": "euler", "guidance_scale": 3.0, "controls": ["lines"]},
    "late": {"sampler": "plms", "guidance_scale": 1.0, "controls": ["lines"], "start": 0.5, "end": 1.0},
    "weak": {"sampler": "dpmpp_2m", "guidance_scale": 5.0, "controls": ["any"], "scale": 0.3},
    "both": {"sampler": "unipc", "guidance_scale": 1.0, "controls": ["any", "lines"]},
    "edges": {"sampler": "ddim", "guidance_scale": 2.0, "controls": ["any"], "preprocess": "canny"},
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_controls(folder)
    return folder


def _engine(models_dir: Path, strict_rows: int = 4) -> Engine:
    return make_engine({"pipeline": controlled_sd()}, controlnets=library_of(models_dir), strict_rows=strict_rows)


def _job(models_dir: Path, name: str, determinism: str, **more: object) -> Admission:
    fields = {"model": "pipeline", "prompt": f"a {name} cat", "determinism": determinism} | JOBS[name] | more
    names = fields.pop("controls", [])
    assert isinstance(names, list)
    own = {key: fields.pop(key) for key in ("scale", "start", "end", "preprocess") if key in fields}
    controls = [applied(models_dir, control, **own) for control in names]
    files = {control_name(i): picture_bytes(64, 64, seed=i) for i in range(len(names))}
    return admitted(name, make_request(**fields, controls=controls), files)


def test_one_call_carries_them_all_and_strict_bytes_are_those_of_the_job_alone(models_dir: Path) -> None:
    jobs = [_job(models_dir, name, "strict", num_images=1 + (name == "weak")) for name in JOBS]
    outcomes = play(_engine(models_dir, strict_rows=14), jobs)
    assert max(outcome.slots for outcome in outcomes if isinstance(outcome, Called)) == 7
    together = finished(outcomes)
    for job in jobs:
        alone = finished(play(_engine(models_dir, strict_rows=14), [job]))
        assert together[job.job_id, 0].tobytes() == alone[job.job_id, 0].tobytes()
    assert len({picture.tobytes() for picture in together.values()}) == len(together)


def test_fast_results_are_within_a_thousandth_of_the_job_alone(models_dir: Path) -> None:
    engine, jobs = _engine(models_dir), [_job(models_dir, name, "fast") for name in JOBS]
    for job in jobs:
        engine.admit(job)
    _call(engine, 4)
    for job in jobs:
        single = _engine(models_dir)
        single.admit(job)
        _call(single, 4)
        alone, shared = (each._jobs[job.job_id].images[0].z_t for each in (single, engine))
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-3)


def test_a_jobs_part_of_a_call_counts_its_controlnets(models_dir: Path) -> None:
    engine = _engine(models_dir)
    jobs = [_job(models_dir, name, "fast", guidance_scale=1.0, sampler="ddim") for name in ("none", "both")]
    outcomes = play(engine, jobs)
    calls = [outcome for outcome in outcomes if isinstance(outcome, Called)]
    assert [(call.rows, call.control_rows) for call in calls] == [(2, 2)] * 4
    last = {outcome.job_id: outcome.share for outcome in outcomes if isinstance(outcome, Stepped)}
    assert last["both"].gpu_s == pytest.approx((1 + 2 * CONTROL_ROW) * last["none"].gpu_s)
    assert last["both"].gpu_s + last["none"].gpu_s == pytest.approx(sum(call.seconds for call in calls))


def _call(engine: Engine, count: int) -> None:
    calls = 0
    while calls < count:
        calls += sum(isinstance(outcome, Called) for outcome in engine.turn())


def test_only_rows_that_have_one_pay_for_it_and_only_while_it_acts(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = ControlNet.forward

    def counted(self: ControlNet, z_t: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        rows.append(len(z_t))
        return forward(self, z_t, *others)

    monkeypatch.setattr(ControlNet, "forward", counted)
    jobs = [_job(models_dir, name, "fast", sampler="ddim") for name in ("none", "lines", "late")]
    play(_engine(models_dir), jobs)
    # Four steps: two rows of the guided job in all of them, one more of the other in the last two.
    assert rows == [2, 2, 3, 3]


def test_a_job_without_any_has_the_bytes_of_an_engine_without_any(models_dir: Path) -> None:
    plain = finished(play(make_engine({"pipeline": controlled_sd()}), [_job(models_dir, "none", "fast")]))
    engine = _engine(models_dir)
    play(engine, [_job(models_dir, "lines", "fast")])
    again = finished(play(engine, [_job(models_dir, "none", "fast")]))
    assert plain["none", 0].tobytes() == again["none", 0].tobytes()


def test_scale_zero_changes_nothing_but_rounding(models_dir: Path) -> None:
    plain = finished(play(_engine(models_dir), [_job(models_dir, "none", "fast")]))["none", 0]
    job = _job(models_dir, "none", "fast", controls=["lines"], scale=0.0)
    zero = finished(play(_engine(models_dir), [job]))["none", 0]
    assert np.abs(np.asarray(plain, np.int16) - np.asarray(zero, np.int16)).max() <= 1


@pytest.mark.parametrize(("concat", "channels"), [("mask-latent", 9), ("depth", 5), ("source", 8)])
def test_what_is_concatenated_isn_t_theirs(models_dir: Path, concat: Concat, channels: int) -> None:
    """They see the latent alone: a UNet whose further channels weigh nothing answers as the one without them."""
    plain = controlled_sd()
    unet = UNet(replace(plain.config.unet, in_channels=channels))
    weights = dict(plain.unet.state_dict())
    rest = torch.zeros(len(weights["conv_in.weight"]), channels - 4, 3, 3)
    unet.load_state_dict(weights | {"conv_in.weight": torch.cat([weights["conv_in.weight"], rest], dim=1)})
    config = replace(plain.config, unet=unet.config, concat=concat)
    wide = replace(plain, config=config, denoiser=Denoiser(unet.eval(), plain.device, torch.float32))
    network = library_of(models_dir).network(plain, applied(models_dir, "lines"))
    told = Inputs(context=torch.randn(1, 7, plain.config.unet.context_dim or 0))
    z_t, t = torch.randn(1, 4, 16, 16), torch.tensor([500])
    more = replace(told, concat=torch.randn(1, channels - 4, 16, 16))
    with torch.inference_mode():
        control = Control(network, network.embed(torch.rand(1, 3, 128, 128))[0], 1.0)
        rows = RowControls([[control]], apart=False)
        ours, theirs = wide.predict(z_t, t, more, None, rows), plain.predict(z_t, t, told, None, rows)
        bare = plain.predict(z_t, t, told)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(theirs, bare, atol=1e-3)


def test_a_resumed_strict_job_has_the_same_bytes(models_dir: Path) -> None:
    job, engine = _job(models_dir, "both", "strict"), _engine(models_dir)
    engine.admit(job)
    _call(engine, 1)
    again = Admission("both", job.request, job.pictures, snapshot=engine.snapshot("both"))
    resumed = play(_engine(models_dir), [again])
    assert [outcome.step for outcome in resumed if isinstance(outcome, Prepared)] == [1]
    assert finished(resumed)["both", 0].tobytes() == finished(play(engine))["both", 0].tobytes()


def test_a_map_of_another_size_and_one_that_is_not_there_are_refused(models_dir: Path) -> None:
    job = _job(models_dir, "lines", "fast")
    with pytest.raises(InvalidRequest, match="control_0 has 32x64 pixels, the picture to be made 64x64"):
        _engine(models_dir).admit(admitted("a", job.request, {"control_0": picture_bytes(32, 64)}))
    with pytest.raises(InvalidRequest, match="needs its picture control_0"):
        _engine(models_dir).admit(Admission("a", job.request))


def test_one_that_the_worker_lacks_fails_its_job_alone(models_dir: Path) -> None:
    engine = make_engine({"pipeline": controlled_sd()})
    outcomes = play(engine, [_job(models_dir, name, "fast") for name in ("none", "lines")])
    assert failures(outcomes) == {"lines": "ControlNet 'lines' isn't here"}
    assert ("none", 0) in finished(outcomes)


def test_a_size_that_is_no_multiple_of_the_stride_and_large_maps_work(models_dir: Path) -> None:
    job = _job(models_dir, "lines", "fast", width=72, height=88)
    files = {"control_0": picture_bytes(72, 88)}
    [picture] = finished(play(_engine(models_dir), [admitted("a", job.request, files)])).values()
    assert picture.size == (72, 88)


@pytest.mark.parametrize("name", ["lines", "edges"])
def test_maps_are_enlarged_for_a_second_pass(models_dir: Path, name: str) -> None:
    hires = {"scale": 2.0, "strength": 0.5, "steps": 4, "upscaler": "latent"}
    led, free = (_job(models_dir, each, "strict", hires=hires) for each in (name, "none"))
    pictures = finished(play(_engine(models_dir), [led, free]))
    assert {picture.size for picture in pictures.values()} == {(128, 128)}
    alone = finished(play(_engine(models_dir), [led]))
    assert alone[name, 0].tobytes() == pictures[name, 0].tobytes()
