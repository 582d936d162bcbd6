"""Rows with different LoRAs, several, and none share one UNet call, each with the result that it has alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import CheckpointError
from tests.engines import finished, make_engine, make_request, play
from tests.loras import applied, library_of, small_sd, write_loras
from workers.engine.engine import Engine
from workers.engine.messages import Aborted, Admission, Called, Prepared

JOBS: dict[str, dict[str, object]] = {
    "none": {"sampler": "ddim", "guidance_scale": 4.0},
    "style": {"sampler": "euler", "guidance_scale": 3.0, "loras": {"style": 1.0}},
    "conv": {"sampler": "plms", "guidance_scale": 1.0, "loras": {"conv": 0.8}},
    "less": {"sampler": "dpmpp_2m", "guidance_scale": 5.0, "loras": {"conv": 0.3}},
    "both": {"sampler": "unipc", "guidance_scale": 1.0, "loras": {"style": -0.5, "peft": 0.7}},
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_loras(folder)
    return folder


def _engine(models_dir: Path, strict_rows: int = 4) -> Engine:
    return make_engine({"pipeline": small_sd()}, loras=library_of(models_dir), strict_rows=strict_rows)


def _job(models_dir: Path, name: str, determinism: str, **more: object) -> Admission:
    fields = {"model": "pipeline", "prompt": f"a {name} cat", "determinism": determinism} | JOBS[name] | more
    scales = fields.pop("loras", {})
    assert isinstance(scales, dict)
    return Admission(name, make_request(**fields, loras=applied(models_dir, **scales)))


def _latents(engine: Engine, job: Admission) -> torch.Tensor:
    """Where a job's only image is before it is decoded."""
    engine.admit(job)
    called = 0
    while called < 4:
        called += sum(isinstance(outcome, Called) for outcome in engine.turn())
    return engine._jobs[job.job_id].images[0].z_t


def test_one_call_carries_them_all_and_strict_bytes_are_those_of_the_job_alone(models_dir: Path) -> None:
    jobs = [_job(models_dir, name, "strict", num_images=1 + (name == "less")) for name in JOBS]
    outcomes = play(_engine(models_dir, strict_rows=12), jobs)
    calls = [outcome for outcome in outcomes if isinstance(outcome, Called)]
    assert max(call.slots for call in calls) == 6
    together = finished(outcomes)
    for job in jobs:
        alone = finished(play(_engine(models_dir, strict_rows=12), [job]))
        assert together[job.job_id, 0].tobytes() == alone[job.job_id, 0].tobytes()
    assert len({picture.tobytes() for picture in together.values()}) == len(together)


def test_fast_results_are_within_a_thousandth_of_the_job_alone(models_dir: Path) -> None:
    engine, jobs = _engine(models_dir), [_job(models_dir, name, "fast") for name in JOBS]
    for job in jobs:
        engine.admit(job)
    calls: list[Called] = []
    while len(calls) < 4:
        calls += [outcome for outcome in engine.turn() if isinstance(outcome, Called)]
    assert [call.slots for call in calls] == [5] * 4
    for job in jobs:
        alone = _latents(_engine(models_dir), job)
        torch.testing.assert_close(engine._jobs[job.job_id].images[0].z_t, alone, rtol=1e-3, atol=1e-3)


def test_a_job_without_a_lora_has_the_bytes_of_an_engine_without_any(models_dir: Path) -> None:
    plain = finished(play(make_engine({"pipeline": small_sd()}), [_job(models_dir, "none", "fast")]))
    engine = _engine(models_dir)
    play(engine, [_job(models_dir, "style", "fast")])
    again = finished(play(engine, [_job(models_dir, "none", "fast")]))
    assert plain["none", 0].tobytes() == again["none", 0].tobytes()
    assert not any(module._forward_hooks for module in small_sd().unet.modules())


def test_a_lora_at_scale_zero_changes_nothing_but_rounding(models_dir: Path) -> None:
    plain = finished(play(_engine(models_dir), [_job(models_dir, "none", "fast")]))["none", 0]
    zero = finished(play(_engine(models_dir), [_job(models_dir, "none", "fast", loras={"style": 0.0})]))["none", 0]
    assert np.abs(np.asarray(plain, np.int16) - np.asarray(zero, np.int16)).max() <= 1


def test_a_resumed_strict_job_has_the_same_bytes(models_dir: Path) -> None:
    job, engine = _job(models_dir, "both", "strict"), _engine(models_dir)
    engine.admit(job)
    while not any(isinstance(outcome, Called) for outcome in engine.turn()):
        pass
    resumed = play(_engine(models_dir), [Admission("both", job.request, snapshot=engine.snapshot("both"))])
    assert [outcome.step for outcome in resumed if isinstance(outcome, Prepared)] == [1]
    assert finished(resumed)["both", 0].tobytes() == finished(play(engine))["both", 0].tobytes()


def test_a_lora_that_was_replaced_since_fails_its_jobs_alone(tmp_path: Path) -> None:
    folder = write_loras(tmp_path)
    jobs = [_job(tmp_path, name, "fast") for name in ("none", "style")]
    engine = _engine(tmp_path)
    (folder / "style.safetensors").write_bytes((folder / "peft.safetensors").read_bytes())
    outcomes = play(engine, jobs)
    [aborted] = [outcome for outcome in outcomes if isinstance(outcome, Aborted)]
    assert aborted.job_id == "style"
    assert isinstance(aborted.error, CheckpointError)
    assert "'style' was replaced" in aborted.error.detail
    assert ("none", 0) in finished(outcomes)
