"""`strict`: the same bytes whatever the load, the neighbours, a restart or a resumption; `fast` within a bound."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.pipeline.pipeline import LatentDiffusion
from models.samplers import SAMPLERS
from tests.engines import finished, inpaint, make_engine, make_request, mask_bytes, picture_bytes, play, upscale
from tests.tiny import write_tiny_inpaint
from workers.engine.messages import Admission, Called, Finished, Outcome, Prepared
from workers.library.loading import load_ready

FAST_BOUND = 2  # levels of 255 by which a fast picture may differ with its neighbours


def _jobs(determinism: str) -> list[Admission]:
    """Both tasks, every sampler, different steps, prompts and guidance."""
    jobs = []
    for i, sampler in enumerate((*SAMPLERS, "ddim")):
        changes = {
            "prompt": f"star {i}",
            "negative_prompt": "cat" if i % 3 == 0 else "",
            "steps": 3 + i % 12,
            "sampler": sampler,
            "guidance_scale": (1.0, 2.5, 4.0)[i % 3],
            "eta": 1.0 if i == len(SAMPLERS) else 0.0,
            "seed": 100 + i,
            "determinism": determinism,
        }
        painted = Admission(f"j{i}", make_request(**changes))
        repainted = inpaint(f"j{i}", picture_bytes(64, 64, seed=i), mask_bytes(64, 64), **changes)
        jobs.append(painted if i % 2 == 0 else repainted)
    return jobs


def _levels(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.array(a, np.int16) - np.array(b, np.int16)).max())


def test_strict_bytes_are_those_of_the_job_alone_in_a_new_engine() -> None:
    outcomes = play(make_engine(), _jobs("strict"))
    together = finished(outcomes)
    assert {o.padded_rows for o in outcomes if isinstance(o, Called)} == {4}
    for job in _jobs("strict"):
        alone = finished(play(make_engine(), [job]))
        assert together[job.job_id, 0].tobytes() == alone[job.job_id, 0].tobytes()


def test_strict_bytes_are_the_same_where_outcomes_are_read_late() -> None:
    outcomes = play(make_engine(as_gpu=True), [*_jobs("strict")[:4], *_jobs("fast")[4:8]])
    assert {o.padded_rows for o in outcomes if isinstance(o, Called) and o.strict} == {4}
    assert {o.padded_rows for o in outcomes if isinstance(o, Called) and not o.strict} <= {1, 2, 4, 8, 16}
    alone = finished(play(make_engine(), _jobs("strict")[:4]))
    assert all(finished(outcomes)[key].tobytes() == picture.tobytes() for key, picture in alone.items())


@cache
def _bfloat16_models() -> dict[str, LatentDiffusion]:
    """As a worker has them on a CPU that multiplies bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_ready(write_tiny_inpaint(Path(folder) / "paint"), "cpu", torch.bfloat16)
    return {"paint": model}


def test_strict_bytes_in_bfloat16_are_those_of_the_job_alone() -> None:
    jobs = _jobs("strict")[::2]
    together = finished(play(make_engine(_bfloat16_models()), jobs))
    for job in jobs[::2]:
        alone = finished(play(make_engine(_bfloat16_models()), [job]))
        assert together[job.job_id, 0].tobytes() == alone[job.job_id, 0].tobytes()


def test_strict_bytes_are_the_same_among_fast_neighbours() -> None:
    strict, fast = _jobs("strict")[::3], [job for i, job in enumerate(_jobs("fast")) if i % 3]
    outcomes = play(make_engine(), [*fast, *strict])
    assert {o.padded_rows for o in outcomes if isinstance(o, Called) and o.strict} == {4}
    for job in strict:
        assert (
            finished(outcomes)[job.job_id, 0].tobytes() == finished(play(make_engine(), [job]))[job.job_id, 0].tobytes()
        )


def test_fast_stays_within_its_bound() -> None:
    outcomes = play(make_engine(), _jobs("fast"))
    assert max(o.rows for o in outcomes if isinstance(o, Called)) == 16
    for job in _jobs("fast"):
        alone = finished(play(make_engine(), [job]))
        assert _levels(finished(outcomes)[job.job_id, 0], alone[job.job_id, 0]) <= FAST_BOUND


def test_strict_upscaling_is_the_same_among_neighbours() -> None:
    jobs = [upscale(f"u{i}", picture_bytes(20, 12, seed=i), determinism="strict", eta=1.0) for i in range(3)]
    together = finished(play(make_engine(), jobs))
    alone = finished(play(make_engine(), jobs[1:2]))
    assert together["u1", 0].tobytes() == alone["u1", 0].tobytes()


def _broken_off(admission: Admission, calls: int) -> tuple[bytes | None, list[Outcome]]:
    """The state after so many calls, and the outcomes of a new engine that resumes it."""
    engine = make_engine()
    engine.admit(admission)
    done = 0
    while done < calls:
        done += sum(isinstance(o, Called) for o in engine.turn())
    state = engine.snapshot(admission.job_id)
    resumed = Admission(admission.job_id, admission.request, admission.pictures, snapshot=state)
    return state, play(make_engine(), [resumed])


# One of each form of rows: tests/unit/models/samplers/test_plans.py resumes all of them, at any row.
RESUMED = ("ddim", "ddpm", "plms", "euler", "dpmpp_2m", "unipc", "dpmpp_sde", "lms", "tcd")


@pytest.mark.parametrize(("sampler", "eta"), [*((sampler, 0.0) for sampler in RESUMED), ("ddim", 1.0)])
def test_a_resumed_strict_job_has_the_same_bytes(sampler: str, eta: float) -> None:
    changes = {"sampler": sampler, "eta": eta, "steps": 6, "num_images": 2, "determinism": "strict"}
    for admission in (
        Admission("a", make_request(**changes)),
        inpaint("a", picture_bytes(), mask_bytes(), strength=0.9, **changes),
    ):
        unbroken = finished(play(make_engine(), [admission]))
        for calls in (1, 3, 4):
            state, outcomes = _broken_off(admission, calls)
            assert state is not None
            assert len(state) < 1 << 20
            [prepared] = [o for o in outcomes if isinstance(o, Prepared)]
            assert prepared.step > 0 or calls == 1  # of two for the first step
            again = finished(outcomes)
            assert [p.tobytes() for p in again.values()] == [p.tobytes() for p in unbroken.values()]


def test_a_snapshot_taken_while_decoding_is_decoded_again() -> None:
    admission = Admission("a", make_request(num_images=2, determinism="strict"))
    engine = make_engine()
    engine.admit(admission)
    outcomes: list[Outcome] = []
    while not any(isinstance(o, Finished) for o in outcomes):
        outcomes += engine.turn()
    state = engine.snapshot("a")
    resumed = play(make_engine(), [Admission("a", admission.request, snapshot=state)])
    assert not any(isinstance(o, Called) for o in resumed)
    assert finished(resumed)["a", 0].tobytes() == finished(outcomes)["a", 0].tobytes()
    assert ("a", 1) in finished(resumed)


def test_a_snapshot_of_another_plan_starts_anew() -> None:
    state, _ = _broken_off(Admission("a", make_request(sampler="plms", steps=8)), 5)
    resumed = play(make_engine(), [Admission("a", make_request(), snapshot=state)])
    assert [o.step for o in resumed if isinstance(o, Prepared)] == [0]
    plain = play(make_engine(), [Admission("a", make_request())])
    assert finished(resumed)["a", 0].tobytes() == finished(plain)["a", 0].tobytes()


def test_there_is_no_snapshot_before_preparation() -> None:
    engine = make_engine()
    engine.admit(Admission("a", make_request()))
    assert engine.snapshot("a") is None
    assert engine.snapshot("unknown") is None


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 6), min_size=4, max_size=4), st.none() | st.integers(0, 3), st.integers(1, 12))
def test_strict_bytes_do_not_depend_on_who_comes_and_goes(arrivals: list[int], gone: int | None, when: int) -> None:
    jobs = [Admission(f"j{i}", make_request(seed=i, steps=2 + i, determinism="strict")) for i in range(4)]
    engine, outcomes = make_engine(), list[Outcome]()
    for turn in range(14):
        for job, arrival in zip(jobs, arrivals, strict=True):
            if arrival == turn:
                engine.admit(job)
        if gone is not None and turn == when:
            engine.drop(f"j{gone}")
        outcomes += engine.turn()
    outcomes += play(engine)
    assert len(finished(outcomes)) >= 3
    for (job_id, _), picture in finished(outcomes).items():
        assert picture.tobytes() == _alone(int(job_id[1:]))


@cache
def _alone(seed: int) -> bytes:
    job = Admission("alone", make_request(seed=seed, steps=2 + seed, determinism="strict"))
    return finished(play(make_engine(), [job]))["alone", 0].tobytes()
