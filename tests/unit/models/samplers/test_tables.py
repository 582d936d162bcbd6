"""Every sampler's table equals a plain loop written from its paper, for any step count, spacing and prediction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.errors import InvalidRequest
from models.samplers import MAX_PREDICTIONS, SAMPLERS, compile_plan, samplers_for
from models.samplers.compile import EULER_FLOOR
from models.samplers.consistency import ORIGINAL_STEPS
from models.samplers.steps import (
    ancestral_intervals,
    denoising_intervals,
    euler_intervals,
    solver_intervals,
)
from models.schedule import Array, NoiseSchedule, Prediction, ScheduleConfig, Spacing
from tests.unit.models.samplers import reference

PREDICTIONS: tuple[Prediction, ...] = ("eps", "v", "x0")
SPACINGS: tuple[Spacing, ...] = ("leading", "trailing", "linspace", "uniform", "quad")
# Of the default checkpoint: scaled-linear, zero terminal SNR, trailing, v.
DEFAULT = ScheduleConfig(
    prediction="v", zero_terminal_snr=True, spacing="trailing", steps_offset=0, set_alpha_to_one=True
)

schedules = st.builds(
    lambda prediction, spacing, one, offset: NoiseSchedule(
        ScheduleConfig(prediction=prediction, spacing=spacing, set_alpha_to_one=one, steps_offset=offset)
    ),
    st.sampled_from(PREDICTIONS),
    st.sampled_from(SPACINGS),
    st.booleans(),
    st.integers(0, 1),
)
# Mostly the counts that people use, and all the others.
step_counts = st.one_of(st.integers(1, 60), st.integers(1, 1000))
property_test = settings(deadline=None, max_examples=40)


def at_most(sampler: str, steps: int) -> int:
    """No more steps than the sampler has."""
    return min(steps, ORIGINAL_STEPS) if sampler in ("lcm", "tcd") else steps


def draw() -> tuple[Array, list[Array]]:
    generator = np.random.default_rng(0)
    return generator.standard_normal(6), list(generator.standard_normal((2004, 6)))


def assert_equal(got: Array, expected: Array, steps: int) -> None:
    # The eps samplers divide by √ᾱ (down to .03): rounding grows with the size of what passes through.
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9 * steps * max(1.0, float(np.abs(expected).max())))


@property_test
@given(schedules, step_counts, st.floats(0, 1))
def test_ddim(schedule: NoiseSchedule, steps: int, eta: float) -> None:
    z, noise = draw()
    plan = compile_plan("ddim", schedule, steps, eta)
    expected = reference.ddim(denoising_intervals(schedule, steps), schedule.config.prediction, z, noise, eta)
    assert_equal(reference.run_table(plan, z, noise), expected, steps)


@property_test
@given(schedules, step_counts)
def test_ddpm(schedule: NoiseSchedule, steps: int) -> None:
    z, noise = draw()
    expected = reference.ddpm(ancestral_intervals(schedule, steps), schedule.config.prediction, z, noise)
    assert_equal(reference.run_table(compile_plan("ddpm", schedule, steps), z, noise), expected, steps)


@property_test
@given(schedules, step_counts)
def test_plms(schedule: NoiseSchedule, steps: int) -> None:
    z, noise = draw()
    expected = reference.plms(denoising_intervals(schedule, steps), schedule.config.prediction, z)
    assert_equal(reference.run_table(compile_plan("plms", schedule, steps), z, noise), expected, steps)


@property_test
@given(schedules, step_counts)
def test_euler(schedule: NoiseSchedule, steps: int) -> None:
    z, noise = draw()
    intervals = euler_intervals(schedule, steps, EULER_FLOOR)
    expected = reference.euler(intervals, schedule.config.prediction, z)
    assert_equal(reference.run_table(compile_plan("euler", schedule, steps), z, noise), expected, steps)


@property_test
@given(schedules, step_counts)
def test_dpmpp_2m(schedule: NoiseSchedule, steps: int) -> None:
    z, noise = draw()
    intervals = solver_intervals(schedule, steps)
    assume(len({i.t for i in intervals}) == len(intervals))  # a repeated timestep has no h
    expected = reference.dpmpp_2m(intervals, schedule.config.prediction, z)
    assert_equal(reference.run_table(compile_plan("dpmpp_2m", schedule, steps), z, noise), expected, steps)


@property_test
@given(schedules, step_counts)
def test_unipc(schedule: NoiseSchedule, steps: int) -> None:
    z, noise = draw()
    intervals = solver_intervals(schedule, steps)
    assume(len({i.t for i in intervals}) == len(intervals))  # a repeated timestep has no h
    expected = reference.unipc(intervals, schedule.config.prediction, z)
    assert_equal(reference.run_table(compile_plan("unipc", schedule, steps), z, noise), expected, steps)


@property_test
@given(st.sampled_from(SAMPLERS), step_counts, st.sampled_from(["v", "x0"]), st.sampled_from(SPACINGS))
def test_every_sampler_is_finite_at_zero_terminal_snr(
    sampler: str, steps: int, prediction: Prediction, spacing: Spacing
) -> None:
    config = ScheduleConfig(prediction=prediction, zero_terminal_snr=True, spacing=spacing, set_alpha_to_one=True)
    z, noise = draw()
    plan = compile_plan(sampler, NoiseSchedule(config), at_most(sampler, steps))
    assert all(row.finite() for row in plan.rows)
    assert np.isfinite(reference.run_table(plan, z, noise)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 6, 20, 200])
def test_the_default_checkpoints_schedule_runs_with_every_sampler(sampler: str, steps: int) -> None:
    schedule, steps = NoiseSchedule(DEFAULT), at_most(sampler, steps)
    plan = compile_plan(sampler, schedule, steps)
    z, noise = draw()
    final = reference.run_table(plan, z, noise)
    # The network's x0 at z is near −out there: nothing blows up on the way to it.
    assert plan.start.alpha <= 2.0**-12
    assert np.abs(final).max() < 4
    assert [row.step for row in plan.rows][-1] == plan.steps == steps


@pytest.mark.parametrize("sampler", ["plms", "dpmpp_2m", "unipc", "euler", "ddim", "heun", "dpm2", "lms"])
@pytest.mark.parametrize("levels", ["normal", "sgm_uniform"])
def test_few_steps_of_finite_sigmas_from_no_signal_stay_near_the_picture(sampler: str, levels: str) -> None:
    z, noise = draw()
    final = reference.run_table(compile_plan(sampler, NoiseSchedule(DEFAULT), 6, levels=levels), z, noise)
    assert np.abs(final).max() < 1  # of 1,000 steps 0.2


@pytest.mark.parametrize("sampler", ["plms", "dpmpp_2m", "unipc", "euler", "ddim", "heun", "dpm2", "lms"])
def test_samplers_agree_at_many_steps_from_no_signal(sampler: str) -> None:
    schedule, (z, noise) = NoiseSchedule(DEFAULT), draw()
    finest = reference.run_table(compile_plan("ddim", schedule, 1000), z, noise)
    got = reference.run_table(compile_plan(sampler, schedule, 500), z, noise)
    np.testing.assert_allclose(got, finest, atol=0.02)


@given(st.sampled_from(SAMPLERS), schedules, step_counts, st.floats(0.01, 1))
@property_test
def test_strength_takes_the_last_steps(sampler: str, schedule: NoiseSchedule, steps: int, strength: float) -> None:
    steps = at_most(sampler, steps)
    whole, part = compile_plan(sampler, schedule, steps), compile_plan(sampler, schedule, steps, 0.0, strength)
    assert part.steps == max(1, int(whole.steps * strength))
    assert [row.t for row in part.rows][-1] == [row.t for row in whole.rows][-1] or sampler == "plms"
    assert part.rows[0].step == 1
    assert part.rows[-1].step == part.steps
    assert part.history[0] == part.history[-1] == 0
    assert len(part.history) == len(part.rows) + 1
    assert all(len(row.predictions) <= MAX_PREDICTIONS for row in part.rows)


def test_the_preview_is_the_networks_x0() -> None:
    for sampler in SAMPLERS:
        for row in compile_plan(sampler, NoiseSchedule(ScheduleConfig(prediction="v")), 10).rows:
            if row.raw:  # halfway through a step: no preview is due
                continue
            z = np.linspace(-1, 1, 5)
            p = row.out * reference.network(z, row.t) + row.z * z
            expected = row.alpha * z - row.sigma * reference.network(z, row.t)
            np.testing.assert_allclose(row.preview_p * p + row.preview_z * z, expected, atol=1e-12)


def test_duplicate_timesteps_change_nothing() -> None:
    schedule, (z, noise) = NoiseSchedule(ScheduleConfig(spacing="quad")), draw()  # starts 1, 1, 1, 1, 1, …
    for sampler in SAMPLERS:
        assert np.isfinite(reference.run_table(compile_plan(sampler, schedule, at_most(sampler, 250)), z, noise)).all()


def test_equal_schedules_share_a_compiled_plan() -> None:
    first, second = (compile_plan("unipc", NoiseSchedule(ScheduleConfig()), 20) for _ in range(2))
    assert first is second


@pytest.mark.parametrize(
    ("arguments", "field", "says"),
    [
        (("dpm_fast", 10, 0.0, 1.0), "sampler", "'dpm_fast' can't run on this model; ddim, ddpm, plms, euler"),
        (("ddim", 0, 0.0, 1.0), "steps", "steps is 0; this model takes 1 to 1000"),
        (("ddim", 1001, 0.0, 1.0), "steps", "steps is 1001"),
        (("lcm", 51, 0.0, 1.0), "steps", "steps is 51; this model takes 1 to 50"),
        (("ddim", 10, 1.5, 1.0), "eta", r"eta is 1.5; it must lie in \[0, 1\]"),
        (("euler", 10, 0.5, 1.0), "eta", "euler has no eta"),
        (("ddim", 10, 0.0, 0.0), "strength", "strength is 0.0"),
    ],
)
def test_what_cannot_be_compiled_is_named(arguments: tuple[str, int, float, float], field: str, says: str) -> None:
    sampler, steps, eta, strength = arguments
    with pytest.raises(InvalidRequest, match=says) as caught:
        compile_plan(sampler, NoiseSchedule(ScheduleConfig()), steps, eta, strength)
    assert caught.value.field == field


def test_eps_at_no_signal_can_only_be_sampled_by_euler() -> None:
    trailing, leading = (
        NoiseSchedule(ScheduleConfig(prediction="eps", zero_terminal_snr=True, spacing=spacing, steps_offset=0))
        for spacing in ("trailing", "leading")
    )
    assert samplers_for(trailing) == ("euler",)
    with pytest.raises(InvalidRequest, match="'ddim' can't run on this model; euler can"):
        compile_plan("ddim", trailing, 10)
    assert all(row.finite() for row in compile_plan("euler", trailing, 10).rows)
    assert samplers_for(leading) == SAMPLERS
    assert compile_plan("ddim", leading, 10).steps == 10
    with pytest.raises(InvalidRequest, match="euler can"):
        compile_plan("ddim", leading, 1000)
