"""Rows with different LoRAs or ControlNets, several and none share a call, each with the result that it has alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from models.pipeline.pipeline import LatentDiffusion
from tests import controls, loras
from tests.engines import finished, make_engine, play
from workers.engine.engine import Engine
from workers.engine.messages import Admission, Called, Prepared


@dataclass(frozen=True)
class Kind:
    """A kind of add-on: a model that its files fit, engines with them, jobs by name, and which of these is what."""

    write: Callable[[Path], Path]
    model: Callable[[], LatentDiffusion]
    engine: Callable[..., Engine]
    job: Callable[..., Admission]
    jobs: Mapping[str, object]
    weak: str
    one: str
    nothing: Mapping[str, object]  # what a job without any takes without effect


KINDS = {
    "loras": Kind(
        loras.write_loras, loras.small_sd, loras.engine_of, loras.job_named, loras.JOBS,
        weak="less", one="style", nothing={"loras": {"style": 0.0}},
    ),
    "controls": Kind(
        controls.write_controls, controls.controlled_sd, controls.engine_of, controls.job_named, controls.JOBS,
        weak="weak", one="lines", nothing={"controls": ["lines"], "scale": 0.0},
    ),
}  # fmt: skip
Placed = tuple[Kind, Path]


@pytest.fixture(scope="module", params=KINDS)
def placed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Placed:
    """A kind, and a models directory with its files."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("models")
    kind.write(folder)
    return kind, folder


def test_one_call_carries_them_all_and_strict_bytes_are_those_of_the_job_alone(placed: Placed) -> None:
    kind, folder = placed
    jobs = [kind.job(folder, name, "strict", num_images=1 + (name == kind.weak)) for name in kind.jobs]
    slots = len(jobs) + 1
    outcomes = play(kind.engine(folder, strict_rows=2 * slots), jobs)
    assert max(outcome.slots for outcome in outcomes if isinstance(outcome, Called)) == slots
    together = finished(outcomes)
    for job in jobs:
        alone = finished(play(kind.engine(folder, strict_rows=2 * slots), [job]))
        assert together[job.job_id, 0].tobytes() == alone[job.job_id, 0].tobytes()
    assert len({picture.tobytes() for picture in together.values()}) == len(together)


def test_fast_results_are_within_a_thousandth_of_the_job_alone(placed: Placed) -> None:
    kind, folder = placed
    engine, jobs = kind.engine(folder), [kind.job(folder, name, "fast") for name in kind.jobs]
    for job in jobs:
        engine.admit(job)
    assert [call.slots for call in _called(engine, 4)] == [len(jobs)] * 4
    for job in jobs:
        single = kind.engine(folder)
        single.admit(job)
        _called(single, 4)
        alone, shared = (each._jobs[job.job_id].images[0].z_t for each in (single, engine))
        torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-3)


def _called(engine: Engine, count: int) -> list[Called]:
    """Turn until so many calls are done: before the pictures of jobs of as many steps are decoded."""
    calls: list[Called] = []
    while len(calls) < count:
        calls += [outcome for outcome in engine.turn() if isinstance(outcome, Called)]
    return calls


def test_a_job_without_any_has_the_bytes_of_an_engine_without_any(placed: Placed) -> None:
    kind, folder = placed
    plain = finished(play(make_engine({"pipeline": kind.model()}), [kind.job(folder, "none", "fast")]))
    engine = kind.engine(folder)
    play(engine, [kind.job(folder, kind.one, "fast")])
    again = finished(play(engine, [kind.job(folder, "none", "fast")]))
    assert plain["none", 0].tobytes() == again["none", 0].tobytes()
    assert not any(module._forward_hooks for module in kind.model().unet.modules())


def test_scale_zero_changes_nothing_but_rounding(placed: Placed) -> None:
    kind, folder = placed
    plain, zero = (
        finished(play(kind.engine(folder), [kind.job(folder, "none", "fast", **fields)]))["none", 0]
        for fields in ({}, kind.nothing)
    )
    assert np.abs(np.asarray(plain, np.int16) - np.asarray(zero, np.int16)).max() <= 1


def test_a_resumed_strict_job_has_the_same_bytes(placed: Placed) -> None:
    kind, folder = placed
    job, engine = kind.job(folder, "both", "strict"), kind.engine(folder)
    engine.admit(job)
    _called(engine, 1)
    again = Admission("both", job.request, job.pictures, snapshot=engine.snapshot("both"))
    resumed = play(kind.engine(folder), [again])
    assert [outcome.step for outcome in resumed if isinstance(outcome, Prepared)] == [1]
    assert finished(resumed)["both", 0].tobytes() == finished(play(engine))["both", 0].tobytes()
