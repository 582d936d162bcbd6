from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.workers.planner.planning import NO_LIMITS, make_class, make_costs
from workers.engine.scheduler import Policy
from workers.planner.costs import Costs
from workers.planner.mix import JobClass, arrivals
from workers.planner.simulation import WAKE_S, RedisLimits, SimRun, simulate

MIX = (make_class(weight=3), make_class(priority="bulk", num_images=3), make_class(determinism="strict", steps=5))


def run(
    *mix: JobClass, rate: float, count: int = 400, workers: int = 1, seed: int = 0, policy: Policy | None = None
) -> SimRun:
    mix = mix or MIX
    stream = arrivals(mix, rate, count, seed)
    return simulate(make_costs(*mix), stream, workers, policy or Policy(), limits=NO_LIMITS)


def mean(result: SimRun) -> float:
    return fmean(job.ended - job.arrived for job in result.jobs)


@st.composite
def mixes(draw: st.DrawFn) -> tuple[JobClass, ...]:
    one = st.builds(
        make_class,
        steps=st.integers(1, 6),
        num_images=st.integers(1, 5),
        guidance_scale=st.sampled_from([1.0, 4.0]),
        priority=st.sampled_from(["interactive", "bulk"]),
        determinism=st.sampled_from(["fast", "strict"]),
        width=st.sampled_from([256, 512]),
    )
    return tuple(draw(st.lists(one, min_size=1, max_size=3)))


@given(mixes(), st.floats(0.1, 200), st.integers(1, 5), st.integers(1, 20), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_every_job_ends_once(mix: tuple[JobClass, ...], rate: float, workers: int, max_rows: int, seed: int) -> None:
    result = run(*mix, rate=rate, count=40, workers=workers, seed=seed, policy=Policy(max_rows, 4))
    assert len(result.jobs) == 40
    for job in result.jobs:
        least = job.cost.encode_s + job.cost.steps * 0.02 + job.cost.decode_s + job.cost.store_s
        assert job.unstored == 0
        assert job.arrived <= job.started <= job.ended - least
    assert result.rows == sum(job.cost.images * job.cost.steps * job.cost.rows for job in result.jobs)
    assert 0 < result.busy_share <= 1


def test_a_job_alone_takes_the_sum_of_its_parts() -> None:
    (job,) = run(make_class(), rate=1.0, count=1).jobs
    rounds = 1 + 10 + 1
    parts = 0.01 + 10 * 0.02 + 0.012 + 0.02 + rounds * 0.001 + 2 * 0.002
    assert job.ended - job.started == pytest.approx(parts)
    assert 0 <= job.started - job.arrived <= 0.02


@pytest.mark.parametrize("seed", range(3))
def test_results_take_longer_at_higher_rates(seed: int) -> None:
    means = [mean(run(rate=rate, seed=seed)) for rate in (1, 4, 16, 64)]
    assert means == sorted(means)


@pytest.mark.parametrize("seed", range(3))
def test_more_workers_are_never_worse(seed: int) -> None:
    means = [mean(run(rate=40, workers=workers, seed=seed)) for workers in (1, 2, 4, 8, 16)]
    assert all(after <= 1.02 * before for before, after in pairwise(means)), means
    assert means[-1] < 0.5 * means[0]


def fixed(service_s: float) -> Costs:
    """Jobs of one step that take `service_s` in all, half of it in the call."""
    times = {"shape": (4, 32, 32), "calls": {1: service_s / 2}, "encode_s": {"txt2img": 0.0}, "decode_s": service_s / 2}
    one = make_class(steps=1, guidance_scale=1.0, priority="bulk")
    return make_costs(one, shapes=(times,), store_s=0.0, round_s=0.0, move_s=0.0)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_with_fixed_service_is_a_queue_m_d_1(load: float) -> None:
    """Mean time in an M/D/1 queue: D + ρ D / (2 (1 − ρ)) (Pollaczek–Khinchine); D ≫ the 2 ms of waking."""
    service_s, costs = 10.0, fixed(10.0)
    means = []
    for seed in range(4):
        stream = arrivals((make_class(),), load / service_s, 3000, seed)
        result = simulate(costs, stream, 1, Policy(max_rows=1), limits=NO_LIMITS)
        means.append(mean(result))
        assert result.busy_share == pytest.approx(load, rel=0.08)
    assert fmean(means) == pytest.approx(service_s * (1 + load / (2 * (1 - load))), rel=0.08)


def test_interactive_waits_less_than_bulk() -> None:
    mix = (make_class(), make_class(priority="bulk"))
    jobs = run(*mix, rate=60, count=1500).jobs
    waits = {
        lane: fmean(job.started - job.arrived for job in jobs if job.cost.lane == lane)
        for lane in ("interactive", "bulk")
    }
    assert waits["interactive"] < 0.5 * waits["bulk"]


def test_calls_are_shared_under_load() -> None:
    assert run(make_class(), rate=1.0).rows_per_call < 3
    assert run(make_class(), rate=60.0).rows_per_call > 6


def test_calls_of_gpus_take_as_long_as_their_padded_rows() -> None:
    mix = make_class(num_images=5, steps=10)
    call_s = make_costs(mix).call_s
    exact, padded = (run(mix, rate=1.0, count=1, policy=Policy(buckets=buckets)) for buckets in (False, True))
    waste = call_s("m", (4, 32, 32), 16) - call_s("m", (4, 32, 32), 10)
    assert waste > 0
    assert padded.busy_s - exact.busy_s == pytest.approx(10 * waste)
    assert padded.rows == exact.rows


def test_a_slow_redis_holds_everybody_up() -> None:
    mix, costs = (make_class(),), make_costs()
    stream = arrivals(mix, 20, 300, 0)
    slow = simulate(costs, stream, 4, Policy(), limits=RedisLimits(10_000, 20, 1000))
    fast = simulate(costs, stream, 4, Policy(), limits=NO_LIMITS)
    assert slow.redis_load > 0.8
    assert fast.redis_load < 0.01
    assert mean(slow) > 1.5 * mean(fast)


def test_workers_cost_redis_something_even_without_work() -> None:
    stream, limits = arrivals((make_class(),), 1.0, 50, 0), replace(NO_LIMITS, workers=1000.0)
    for workers in (100, 900):
        assert simulate(make_costs(), stream, workers, Policy(), limits=limits).redis_load == pytest.approx(
            workers / 1000
        )


def test_an_idle_worker_has_a_job_at_once() -> None:
    (job,) = run(make_class(), rate=1.0, count=1, workers=3).jobs
    assert job.started - job.arrived == pytest.approx(WAKE_S)


def test_a_part_of_a_fleet_stands_for_all_of_it() -> None:
    mix, costs = (make_class(),), make_costs()
    limits = RedisLimits(100_000, 2000, 100_000)
    whole = simulate(costs, arrivals(mix, 160, 3000, 0), 16, Policy(), limits=limits)
    part = simulate(costs, arrivals(mix, 80, 3000, 0), 8, Policy(), limits=limits, share=0.5)
    assert mean(part) == pytest.approx(mean(whole), rel=0.1)
    assert part.redis_load == pytest.approx(whole.redis_load, rel=0.15)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (run(rate=20, workers=3, seed=5) for _ in range(2))
    assert [job.ended for job in first.jobs] == [job.ended for job in second.jobs]


def test_without_workers_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        run(rate=1.0, workers=0)


def test_images_that_wait_for_the_storage_keep_their_slots() -> None:
    """Four guided images: two calls of four rows."""
    mix, costs = (make_class(steps=1),), make_costs(store_s=1.0, move_s=0.0)
    jobs = simulate(costs, arrivals(mix, 1000, 100, 0), 1, Policy(max_rows=4), limits=NO_LIMITS).jobs
    running = [sum(one.started <= job.started < one.ended for one in jobs) for job in jobs]
    assert max(running) == 4
