"""What holds for every sampler on every schedule: finite rows, resuming at any row, batches that are their singles."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import samplers as contract
from core.errors import InvalidRequest
from models.samplers import SAMPLERS, SCHEDULES, Plan, compile_plan
from models.samplers.consistency import ORIGINAL_STEPS
from models.samplers.levels import SIGMAS, SigmaTable
from models.samplers.update import apply, stack_history, stack_rows
from models.schedule import NoiseSchedule, ScheduleConfig

CONFIGS = [
    ScheduleConfig(prediction="v"),
    ScheduleConfig(prediction="eps"),
    ScheduleConfig(prediction="v", zero_terminal_snr=True, spacing="trailing", steps_offset=0, set_alpha_to_one=True),
]
property_test = settings(deadline=None, max_examples=40)
plans = st.builds(
    lambda sampler, config, steps, strength, levels: compile_plan(
        sampler,
        NoiseSchedule(config),
        min(steps, 50) if sampler in contract.ORIGINAL_STEPS else steps,
        strength=strength,
        levels=None if sampler in contract.ORIGINAL_STEPS else levels,
    ),
    st.sampled_from(SAMPLERS),
    st.sampled_from(CONFIGS),
    st.integers(1, 60),
    st.sampled_from([1.0, 0.7, 0.3]),
    st.sampled_from([None, *SCHEDULES]),
)


def network(z: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(0.7 * z + 0.3 * torch.sin(3 * z) + t[:, None, None, None] / 2000)


def noise(seed: int, row: int) -> Tensor:
    return torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(1000 * seed + row))


def run(plan_list: list[Plan], seeds: list[int], breaks: int | None = None) -> list[Tensor]:
    """Finish plans in shared calls; after `breaks` calls of each, only z_t, position and what history says is kept."""
    z = [noise(seed, 999) for seed in seeds]
    stored: list[list[Tensor]] = [[] for _ in seeds]
    place = [0] * len(seeds)
    while live := [i for i, plan in enumerate(plan_list) if place[i] < len(plan.rows)]:
        c = stack_rows([plan_list[i].rows[place[i]] for i in live])
        z_t = torch.stack([z[i] for i in live])
        history = stack_history([stored[i] for i in live], c.depth, z_t[0])
        drawn = torch.stack([noise(seeds[i], place[i]) for i in live])
        z_next, p, _ = apply(c, network(z_t, c.timesteps), z_t, history, drawn)
        for n, i in enumerate(live):
            z[i], place[i] = z_next[n].clone(), place[i] + 1
            kept = plan_list[i].history[place[i]] if breaks in (None, place[i]) else len(stored[i]) + 1
            stored[i] = [p[n].clone(), *stored[i]][:kept]
    return z


@pytest.mark.parametrize("span", [(0.0, 0.8), (0.8, 1.0), (0.3, 0.7)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_part_of_the_way_is_planned_by_every_sampler(sampler: str, span: tuple[float, float]) -> None:
    for config, steps in product(CONFIGS, (7, 20)):
        plan = compile_plan(sampler, NoiseSchedule(config), steps, span=span)
        assert all(row.finite() for row in plan.rows)
        assert {row.step for row in plan.rows} == set(range(1, plan.steps + 1))


@pytest.mark.parametrize("end", [0.8, 0.35])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_part_of_the_way_is_gone_as_the_whole_way_goes_it(sampler: str, end: float) -> None:
    schedule = NoiseSchedule(CONFIGS[1])
    whole, part = compile_plan(sampler, schedule, 20), compile_plan(sampler, schedule, 20, span=(0.0, end))
    assert 0 < len(part.rows) < len(whole.rows)
    for of_part, of_whole in zip(part.rows, whole.rows, strict=False):
        assert of_part.t == pytest.approx(of_whole.t, abs=1e-3)
        assert replace(of_part, t=0.0) == replace(of_whole, t=0.0)


@property_test
@given(plans)
def test_rows_are_finite_and_count_the_users_steps(plan: Plan) -> None:
    assert all(row.finite() for row in plan.rows)
    steps = [row.step for row in plan.rows]
    assert sorted(steps) == steps
    assert set(steps) == set(range(1, plan.steps + 1))
    assert all(0 <= row.t <= 999 for row in plan.rows)
    assert plan.noise_scale <= 1.0
    assert plan.history[0] == plan.history[-1] == 0


@property_test
@given(plans, st.integers(1, 60))
def test_a_run_resumed_at_any_row_ends_at_the_same_bits(plan: Plan, row: int) -> None:
    [unbroken], [resumed] = run([plan], [1]), run([plan], [1], breaks=min(row, len(plan.rows)))
    assert torch.equal(unbroken, resumed)
    assert unbroken.isfinite().all()


@settings(deadline=None, max_examples=20)
@given(st.lists(plans, min_size=2, max_size=5))
def test_a_batch_of_n_is_its_n_singles(several: list[Plan]) -> None:
    seeds = list(range(len(several)))
    for plan, seed, together in zip(several, seeds, run(several, seeds), strict=True):
        [alone] = run([plan], [seed])
        assert torch.equal(alone, together)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_contract_counts_the_rows(sampler: str, steps: int) -> None:
    plan = compile_plan(sampler, NoiseSchedule(ScheduleConfig()), steps)
    extra = 1 if sampler == "plms" and steps > 1 else 0  # its first step alone is two rows
    assert len(plan.rows) == contract.evaluations(sampler, steps) + extra


def test_the_contract_names_what_there_is() -> None:
    assert get_args(contract.Schedule) == SCHEDULES
    assert set(SAMPLERS) >= contract.ASKING_TWICE
    assert set(contract.ORIGINAL_STEPS.values()) == {ORIGINAL_STEPS}
    for sampler in SAMPLERS:
        if sampler in contract.ETA:
            compile_plan(sampler, NoiseSchedule(ScheduleConfig()), 4, 0.5)
        else:
            with pytest.raises(InvalidRequest, match="has no eta"):
                compile_plan(sampler, NoiseSchedule(ScheduleConfig()), 4, 0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_given_timesteps_are_asked_at(sampler: str) -> None:
    ts = (999, 700, 333, 20)
    plan = compile_plan(sampler, NoiseSchedule(ScheduleConfig()), 4, timesteps=ts)
    assert plan.steps == 4
    first_of_step = {row.step: row.t for row in reversed(plan.rows)}
    assert tuple(first_of_step[step] for step in range(1, 5)) == ts
    last_two = compile_plan(sampler, NoiseSchedule(ScheduleConfig()), 4, strength=0.5, timesteps=ts)
    assert last_two.rows[0].t == 333


@pytest.mark.parametrize(
    ("sampler", "arguments", "field", "says"),
    [
        ("euler", {"timesteps": (5, 5)}, "timesteps", "they must fall, from at most 999 to at least 0"),
        ("euler", {"timesteps": (1000, 5)}, "timesteps", "they must fall"),
        ("euler", {"timesteps": ()}, "timesteps", "they must fall"),
        ("euler", {"levels": "polyexponential"}, "schedule", "it must be one of leading, trailing"),
        ("lcm", {"levels": "karras"}, "schedule", "sampler lcm has timesteps of its own"),
        ("euler", {"steps": 1001, "levels": "karras"}, "steps", "1 to 1000"),
    ],
)
def test_what_cannot_be_run_is_named(sampler: str, arguments: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        compile_plan(sampler, NoiseSchedule(ScheduleConfig()), **{"steps": 4, **arguments})
    assert caught.value.field == field


def test_a_guidance_interval_takes_the_rows_of_its_timesteps() -> None:
    schedule = NoiseSchedule(ScheduleConfig())
    plan = compile_plan("heun", schedule, 10, guidance_interval=(0.2, 0.8))
    assert [row.guided for row in plan.rows] == [0.2 <= row.t / 999 <= 0.8 for row in plan.rows]
    assert 0 < len(plan.unguided) < len(plan.rows)
    assert not compile_plan("heun", schedule, 10).unguided


@pytest.mark.parametrize("name", SIGMAS)
@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_sigmas_fall_within_the_table(name: str, steps: int) -> None:
    table = SigmaTable.of(NoiseSchedule(ScheduleConfig()))
    sigmas = SIGMAS[name](table, steps)
    high, low = table.span
    assert len(sigmas) == steps
    assert (np.diff(sigmas) < 0).all()
    assert high * (1 + 1e-9) >= sigmas[0]
    assert sigmas[-1] >= low * (1 - 1e-9)
    np.testing.assert_allclose(table.sigma(np.array([table.t(float(s)) for s in sigmas])), sigmas, rtol=1e-9)


def test_both_noises_of_a_stochastic_step_are_of_one_path() -> None:
    """The increments σ → σ_m and σ → σ' of Brownian motion share their first part."""
    plan = compile_plan("dpmpp_sde", NoiseSchedule(ScheduleConfig(prediction="v")), 4, levels="karras")
    levels = [row.sigma / row.alpha for row in plan.rows]
    for first, second, after in zip(plan.rows[::2], plan.rows[1::2], levels[2::2], strict=False):
        start, middle = first.sigma / first.alpha, second.sigma / second.alpha
        assert first.follows == 0.0
        assert second.follows == pytest.approx(math.sqrt((start - middle) / (start - after)), rel=1e-6)


@pytest.mark.parametrize("sampler", ["ddim", "plms", "euler", "dpmpp_2m", "unipc", "heun", "dpm2", "lms"])
def test_many_steps_of_any_schedule_come_to_the_same_picture_where_no_noise_is_added(sampler: str) -> None:
    ends = []
    for levels in ("karras", "normal"):
        plan = compile_plan(sampler, NoiseSchedule(ScheduleConfig(prediction="v")), 200, levels=levels)
        ends.append(run([plan], [3])[0])
    torch.testing.assert_close(ends[0], ends[1], atol=0.02, rtol=0.02)
