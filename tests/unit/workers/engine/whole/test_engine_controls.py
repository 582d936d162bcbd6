"""ControlNets in the engine: what rows cost, and their maps. What holds of all add-ons is in test_engine_add_ons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from contract.add_ons import CONTROL_ROW
from core.errors import InvalidRequest
from models.inputs import Inputs
from models.networks.controlnet import Control, ControlNet, RowControls
from models.networks.unet import UNet
from models.pipeline.config import Concat
from models.pipeline.denoiser import Denoiser
from tests.controls import applied, controlled_sd, engine_of, job_named, library_of, write_controls
from tests.engines import admitted, failures, finished, make_engine, picture_bytes, play
from workers.engine.messages import Admission, Called, Stepped


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_controls(folder)
    return folder


def test_a_jobs_part_of_a_call_counts_its_controlnets(models_dir: Path) -> None:
    engine = engine_of(models_dir)
    jobs = [job_named(models_dir, name, "fast", guidance_scale=1.0, sampler="ddim") for name in ("none", "both")]
    outcomes = play(engine, jobs)
    calls = [outcome for outcome in outcomes if isinstance(outcome, Called)]
    assert [(call.rows, call.control_rows) for call in calls] == [(2, 2)] * 4
    last = {outcome.job_id: outcome.share for outcome in outcomes if isinstance(outcome, Stepped)}
    assert last["both"].gpu_s == pytest.approx((1 + 2 * CONTROL_ROW) * last["none"].gpu_s)
    assert last["both"].gpu_s + last["none"].gpu_s == pytest.approx(sum(call.seconds for call in calls))


def test_only_rows_that_have_one_pay_for_it_and_only_while_it_acts(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = ControlNet.forward

    def counted(self: ControlNet, z_t: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
        rows.append(len(z_t))
        return forward(self, z_t, *others)

    monkeypatch.setattr(ControlNet, "forward", counted)
    jobs = [job_named(models_dir, name, "fast", sampler="ddim") for name in ("none", "lines", "late")]
    play(engine_of(models_dir), jobs)
    # Four steps: two rows of the guided job in all of them, one more of the other in the last two.
    assert rows == [2, 2, 3, 3]


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


def test_a_map_of_another_size_and_one_that_is_not_there_are_refused(models_dir: Path) -> None:
    job = job_named(models_dir, "lines", "fast")
    with pytest.raises(InvalidRequest, match="control_0 has 32x64 pixels, the picture to be made 64x64"):
        engine_of(models_dir).admit(admitted("a", job.request, {"control_0": picture_bytes(32, 64)}))
    with pytest.raises(InvalidRequest, match="needs its picture control_0"):
        engine_of(models_dir).admit(Admission("a", job.request))


def test_one_that_the_worker_lacks_fails_its_job_alone(models_dir: Path) -> None:
    engine = make_engine({"pipeline": controlled_sd()})
    outcomes = play(engine, [job_named(models_dir, name, "fast") for name in ("none", "lines")])
    assert failures(outcomes) == {"lines": "ControlNet 'lines' isn't here"}
    assert ("none", 0) in finished(outcomes)


def test_a_size_that_is_no_multiple_of_the_stride_and_large_maps_work(models_dir: Path) -> None:
    job = job_named(models_dir, "lines", "fast", width=72, height=88)
    files = {"control_0": picture_bytes(72, 88)}
    [picture] = finished(play(engine_of(models_dir), [admitted("a", job.request, files)])).values()
    assert picture.size == (72, 88)


@pytest.mark.parametrize("name", ["lines", "edges"])
def test_maps_are_enlarged_for_a_second_pass(models_dir: Path, name: str) -> None:
    hires = {"scale": 2.0, "strength": 0.5, "steps": 4, "upscaler": "latent"}
    led, free = (job_named(models_dir, each, "strict", hires=hires) for each in (name, "none"))
    pictures = finished(play(engine_of(models_dir), [led, free]))
    assert {picture.size for picture in pictures.values()} == {(128, 128)}
    alone = finished(play(engine_of(models_dir), [led]))
    assert alone[name, 0].tobytes() == pictures[name, 0].tobytes()
