from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner

from latentd.cli import app
from latentd.errors import ConfigurationError
from service.contract import CARDS_KEY, CardDefaults, ModelCard
from tests.unit.workers.planning import NO_LIMITS, make_class, make_costs, make_table
from workers.planner.answer import Load, Planner, percentile
from workers.planner.files import BenchReport, live_tables
from workers.planner.mix import JobClass
from workers.planner.simulation import RedisLimits
from workers.planner.worker import Policy
from workers.steptimes import write_cells

MIX = (make_class(weight=3), make_class(priority="bulk"))


def planner(rate: float, mix: tuple[JobClass, ...] = MIX, limits: RedisLimits = NO_LIMITS) -> Planner:
    return Planner(Load(mix, rate, 600), make_costs(*mix), limits)


def test_the_fewest_workers_keep_the_promise_and_one_less_do_not() -> None:
    plan = planner(100.0)
    best = plan.least(0.8, Policy())
    assert best.meets(0.8)
    assert best.workers > 1
    assert not plan.outlook(best.workers - 1, Policy()).meets(0.8)


def test_more_load_needs_more_workers() -> None:
    needed = [planner(rate).least(0.8, Policy()).workers for rate in (5, 50, 500)]
    assert needed == sorted(needed)
    assert needed[2] == pytest.approx(10 * needed[1], rel=0.35)


def test_a_thousand_workers_are_answered_from_a_part() -> None:
    best = planner(5000.0).least(0.8, Policy())
    assert best.simulated < 100 < best.workers <= 1000


def test_a_promise_that_no_fleet_keeps_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a job alone takes 0\.\d+ s: m txt2img"):
        planner(1.0).least(0.1, Policy())
    with pytest.raises(ConfigurationError, match=r"1000 workers on one Redis don't reach it.* Redis 100% busy"):
        planner(50.0, limits=RedisLimits(polls_per_s=30_000, jobs_per_s=1000, steps_per_s=100)).least(1.0, Policy())
    with pytest.raises(ConfigurationError, match="this load keeps"):
        planner(100_000.0).least(1.0, Policy())


def test_policies_are_compared_on_the_same_jobs() -> None:
    plan = planner(60.0)
    best = plan.outlook(1, Policy())
    others = plan.compare(1, Policy())
    assert set(others) == {"max_rows 8", "max_rows 32", "every job strict", "ageing 0 s", "ageing 10 s"}
    assert others["max_rows 8"].rows_per_call < best.rows_per_call
    bulk, now = (one.groups["all bulk"].wait_mean for one in (others["ageing 10 s"], best))
    assert bulk >= 0.9 * now


def test_waits_are_told_by_class_and_lane() -> None:
    groups = planner(10.0).outlook(2, Policy()).groups
    assert set(groups) == {"all interactive", "all bulk", *(one.name for one in MIX)}
    assert all(one.p50 <= one.p99 and one.wait_p99 <= one.p99 for one in groups.values())


def test_percentiles_lie_between_ranks() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], q) for q in (0.0, 0.5, 1.0)] == [1.0, 2.5, 4.0]


def write_inputs(folder: Path) -> list[str]:
    mix, table = folder / "mix.json", folder / "table.json"
    mix.write_text(json.dumps([make_class(steps=2).model_dump()]))
    report = BenchReport(
        device="cpu", threads=1, torch="2", max_rows=16, tables=(make_table(),), images_per_s={"m txt2img": 1.0}
    )
    table.write_text(report.model_dump_json())
    return ["plan", "--rate", "20", "--mix", str(mix), "--p99", "0.8", "--table", str(table)]


def test_the_command_answers_for_people_and_programs(tmp_path: Path) -> None:
    arguments = write_inputs(tmp_path)
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "a worker each, keep 0.8 s for 99 % at 20 jobs/s" in shown.output
    told = CliRunner().invoke(app, [*arguments, "--workers", "2", "--json"])
    answer = json.loads(told.output)
    assert answer["outlook"]["workers"] == 2
    assert answer["met"] is True
    assert "all interactive" in answer["outlook"]["groups"]


def test_tables_come_from_what_workers_published(redis: Redis) -> None:
    defaults = CardDefaults(steps=4, sampler="ddim")
    card = ModelCard(
        id="m",
        description="",
        hash="",
        tasks=("txt2img",),
        native_size=256,
        latent_factor=8,
        defaults=defaults,
        fields=(),
        prediction_type="v",
        samplers=("ddim",),
        licence="",
    )
    redis.hset(CARDS_KEY, "m", card.to_json())
    with redis.pipeline() as pipe:
        write_cells(pipe, "m", {"4x32x32:rows:2": 0.5, "store": 0.1})
        pipe.execute()
    tables = live_tables(redis, ["m", "none"])
    assert list(tables) == ["m"]
    assert tables["m"].shapes[0].calls == {2: 0.5}
