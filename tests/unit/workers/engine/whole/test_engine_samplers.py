"""Samplers in the engine: steps of two rows, guidance within an interval, networks that read the scale themselves."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pytest

from core.errors import InvalidRequest
from models.checkpoints.load import load
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import finished, make_engine, make_request, play
from tests.parity.run import CASES
from workers.engine.messages import Admission, Called, Outcome, Stepped

LCM = Path(CASES) / "other" / "lcm_full" / "pipeline"


def rows(outcomes: Iterable[Outcome]) -> list[int]:
    return [o.rows for o in outcomes if isinstance(o, Called)]


def picture(**changes: object) -> bytes:
    job = Admission("a", make_request(determinism="strict", **changes))
    [(_, drawn)] = finished(play(make_engine(), [job])).items()
    return drawn.tobytes()


@pytest.mark.parametrize("sampler", ["heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde"])
def test_a_step_of_two_rows_counts_and_is_shown_when_both_are_done(sampler: str) -> None:
    outcomes = play(make_engine(), [Admission("a", make_request(sampler=sampler, preview_every=1))])
    assert len(rows(outcomes)) == 6  # the first step, from no signal, and the last are one row each
    steps = [o for o in outcomes if isinstance(o, Stepped)]
    assert [o.step for o in steps] == [1, 2, 3, 4]
    assert [bool(o.previews) for o in steps] == [True, True, True, False]


def test_rows_outside_the_interval_are_not_in_the_call() -> None:
    request = make_request(steps=10, guidance_interval=(0.2, 0.7))
    whole, part = (play(make_engine(), [Admission("a", r)]) for r in (make_request(steps=10), request))
    assert rows(whole) == [2] * 10
    assert set(rows(part)) == {1, 2}
    assert abs(sum(rows(part)) - request.rows) <= 1
    assert finished(part)["a", 0].tobytes() != finished(whole)["a", 0].tobytes()


def test_an_interval_of_everything_and_of_nothing_are_guidance_and_none() -> None:
    assert picture(guidance_interval=(0.0, 1.0)) == picture()
    never = {"timesteps": (900, 600, 300, 200), "guidance_interval": (0.0, 0.1)}
    assert picture(**never) == picture(timesteps=(900, 600, 300, 200), guidance_scale=1.0)


def test_strict_slots_are_the_same_beside_others_of_any_interval_sampler_and_schedule() -> None:
    changes: list[dict[str, object]] = [
        {"sampler": "heun", "schedule": "karras", "guidance_interval": (0.3, 0.8)},
        {"sampler": "dpmpp_sde", "schedule": "exponential"},
        {"sampler": "lcm", "guidance_scale": 1.0},
        {"sampler": "lms", "timesteps": (999, 700, 400, 100), "guidance_interval": (0.5, 1.0)},
    ]
    together = play(
        make_engine(),
        [Admission(f"j{i}", make_request(determinism="strict", **change)) for i, change in enumerate(changes)],
    )
    for i, change in enumerate(changes):
        assert finished(together)[f"j{i}", 0].tobytes() == picture(**change)


def test_timesteps_that_rise_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"timesteps are \[5, 900\]; they must fall"):
        make_engine().admit(Admission("a", make_request(timesteps=(5, 900))))


@lru_cache
def consistency() -> dict[str, LatentDiffusion]:
    return {LCM.name: load(LCM)}


def test_a_network_that_reads_the_scale_takes_one_row_a_step_and_heeds_it() -> None:
    jobs = [
        Admission(name, make_request(model=LCM.name, sampler="lcm", guidance_scale=scale, determinism="strict"))
        for name, scale in (("a", 8.5), ("b", 8.5), ("c", 2.0))
    ]
    outcomes = play(make_engine(consistency()), jobs)
    assert rows(outcomes) == [3] * 4
    drawn = finished(outcomes)
    assert drawn["a", 0].tobytes() == drawn["b", 0].tobytes() != drawn["c", 0].tobytes()
