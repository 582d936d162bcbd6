"""Schedules against the original's numbers (float64) and diffusers' tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from core.errors import CheckpointError
from models.samplers.steps import denoising_intervals, timesteps
from models.schedule import NoiseSchedule, ScheduleConfig, Spacing
from tests.parity.schedules import buffer

CASE = Path(__file__).parents[2] / "parity" / "cases" / "compvis" / "schedules" / "expected.npz"
COMPVIS: dict[str, dict[str, Any]] = {
    "text": {"linear_start": 0.00085, "linear_end": 0.012},
    "celeba": {"linear_start": 0.0015, "linear_end": 0.0195},
    "sr": {"linear_start": 0.0015, "linear_end": 0.0155},
    "inpaint": {"linear_start": 0.0015, "linear_end": 0.0205},
}
POSTERIOR = ("posterior_variance", "posterior_mean_coef1", "posterior_mean_coef2")
SPACINGS: tuple[Spacing, ...] = ("uniform", "quad")
COUNTS = (10, 20, 50, 200, 250)
DDIMScheduler: Any = diffusers.DDIMScheduler


def original(name: str, spacing: Spacing = "uniform") -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig.from_compvis(COMPVIS[name], spacing))


@pytest.mark.parametrize("name", COMPVIS)
def test_tables_equal_the_original(name: str) -> None:
    schedule, expected = original(name), np.load(CASE)
    got = {table: buffer(schedule, table) for table in ("betas", "alphas_cumprod", *POSTERIOR)}
    for key in expected.files:
        if key.startswith(f"{name}/") and key.count("/") == 1:
            table = got[key.split("/")[1]]
            assert table is not None
            np.testing.assert_allclose(table, expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", COUNTS)
def test_step_sets_and_levels_equal_the_original(spacing: Spacing, steps: int) -> None:
    expected = np.load(CASE)
    for name in COMPVIS:
        intervals = denoising_intervals(original(name, spacing), steps)[::-1]
        starts, ends = ([i.start.alpha**2 for i in intervals], [i.end.alpha**2 for i in intervals])
        assert [i.t for i in intervals] == expected[f"steps/{spacing}/{steps}"].tolist()
        np.testing.assert_allclose(starts, expected[f"{name}/{spacing}/{steps}/alphas"], rtol=1e-9)
        np.testing.assert_allclose(ends, expected[f"{name}/{spacing}/{steps}/alphas_prev"], rtol=1e-9)


def test_uniform_counts_that_crash_the_original_give_exactly_the_asked_number() -> None:
    schedule = original("text")
    for steps in range(1, 1001):
        ts, stride = timesteps(schedule, steps), 1000 // steps
        crashes = 1000 % stride == 1 or stride == 1
        assert len(ts) == (steps if crashes else len(range(0, 1000, stride)))
        assert ts[0] <= 999
        assert ts[-1] in (0, 1)
        assert ts == sorted(set(ts), reverse=True)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_count_gives_exactly_that_many_steps_inside_the_table(spacing: Spacing) -> None:
    schedule = NoiseSchedule(ScheduleConfig(spacing=spacing, steps_offset=1))
    for steps in range(1, 1001):
        ts = timesteps(schedule, steps)
        assert len(ts) == steps
        assert 0 <= ts[-1] <= ts[0] <= 999
        assert ts == sorted(set(ts), reverse=True)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 3, 7, 20, 30, 333, 999])
def test_step_sets_equal_diffusers(spacing: Spacing, steps: int) -> None:
    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    theirs.set_timesteps(steps)
    ours = timesteps(NoiseSchedule(ScheduleConfig(spacing=spacing, steps_offset=1)), steps)
    assert ours == theirs.timesteps.tolist()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("rescale", [False, True])
def test_alphas_equal_diffusers(beta_schedule: str, rescale: bool) -> None:
    theirs = DDIMScheduler(beta_schedule=beta_schedule, rescale_betas_zero_snr=rescale, set_alpha_to_one=False)
    ours = NoiseSchedule(ScheduleConfig.from_diffusers(dict(theirs.config)))
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=2e-4, atol=2e-6)
    assert ours.final_alpha_cumprod == ours.alphas_cumprod[0]


def test_zero_terminal_snr_ends_at_exactly_no_signal() -> None:
    plain, zero = (NoiseSchedule(ScheduleConfig(zero_terminal_snr=flag)) for flag in (False, True))
    assert zero.alphas_cumprod[-1] == 0.0
    assert zero.alphas_cumprod[-2] > 0.0
    assert zero.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-12)


def test_levels_between_timesteps_lie_between_their_neighbours() -> None:
    schedule = NoiseSchedule(ScheduleConfig())
    assert schedule.level(500.0).alpha > schedule.level(500.25).alpha > schedule.level(501.0).alpha


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'; it must be one of"),
        ({"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ({"timestep_spacing": "odd"}, "spacing is 'odd'"),
        ({"beta_end": 1.5}, r"beta_end is 1.5; it must lie in \[0.0001, 1\]"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values, timesteps is 1000"),
        ({"thresholding": True}, "thresholding"),
    ],
)
def test_a_wrong_scheduler_config_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        ScheduleConfig.from_diffusers(config)
