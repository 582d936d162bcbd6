from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
from redis import Redis
from typer.testing import CliRunner

from contract.base import Kind
from contract.card import CardDefaults, ModelCard
from contract.redis_keys import CARDS_KEY, serving_key, serving_member
from core.errors import ConfigurationError
from latentd.cli import app
from tests.times import publish
from tests.unit.workers.planner.planning import NO_LIMITS, make_class, make_costs, make_table
from workers.engine.scheduler import Policy
from workers.planner.answer import Load, Planner, percentile
from workers.planner.files import BenchReport, live_cards, live_tables
from workers.planner.mix import MixEntry, resolved
from workers.planner.simulation import RedisLimits

MIX = (make_class(weight=3), make_class(priority="bulk"))


def planner(rate: float, limits: RedisLimits = NO_LIMITS) -> Planner:
    return Planner(Load(MIX, rate, 600), make_costs(*MIX), limits)


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


def one_second(rate: float) -> Planner:
    """Jobs of ten calls of 0.1 s that don't share: with rounds of 0.5 ms a worker does 0.995 a second."""
    times = {"shape": (4, 32, 32), "calls": {1: 0.1}, "encode_s": {"txt2img": 0.0}, "decode_s": 0.0}
    mix = (make_class(steps=10, guidance_scale=1.0),)
    costs = make_costs(*mix, shapes=(times,), store_s=0.02, round_s=0.0005, move_s=0.0)
    return Planner(Load(mix, rate, 3000), costs, NO_LIMITS)


def test_a_fleet_a_little_too_small_is_not_steady() -> None:
    below, above = one_second(9.8), one_second(10.4)
    assert below.outlook(10, Policy()).steady
    assert not above.outlook(10, Policy()).steady
    assert below.least(60.0, Policy()).workers == 10
    assert above.least(60.0, Policy()).workers == 11


SHAPES = tuple(make_class(width=side, height=side) for side in (256, 320, 384, 512))


@pytest.mark.parametrize("workers", [1, 8])
def test_a_fleet_whose_calls_stay_half_full_is_not_steady(workers: int) -> None:
    """Four shapes share a worker's room, so that calls have 8 rows of 16: a fifth less than the best batching does."""
    costs = make_costs(*SHAPES)
    best = workers / fmean(costs.least_work_s(job, 16, 16) for job in costs.jobs)
    steady = [
        Planner(Load(SHAPES, share * best, 2000), costs, NO_LIMITS).outlook(workers, Policy()).steady
        for share in (0.7, 0.88)
    ]
    assert steady == [True, False]


def test_calls_beyond_those_measured_are_named() -> None:
    plan = planner(10.0)
    best, others = plan.outlook(2, Policy()), plan.compare(2, Policy())
    assert best.assumed == others["max_rows 8"].assumed == ()
    assert "m 4×32×32: calls of more than 16 rows" in others["max_rows 32"].assumed[0]
    times = {"shape": (4, 32, 32), "calls": {4: 0.02}, "encode_s": {"txt2img": 0.01}, "decode_s": 0.01}
    few, many = make_costs(*MIX, shapes=(times,)).extrapolated(16, 16)
    assert "more than 4 rows" in few
    assert "fewer than 4 rows" in many


@pytest.mark.parametrize(("rows", "others"), [(1, [2]), (2, [4]), (5, [2, 10])])
def test_half_the_rows_are_never_too_few_for_an_image(rows: int, others: list[int]) -> None:
    found = [name for name, _, _ in planner(10.0).alternatives(Policy(max_rows=rows)) if "max_rows" in name]
    assert found == [f"max_rows {other}" for other in others]


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


def write_inputs(folder: Path, *cards: ModelCard, **entry: object) -> list[str]:
    mix, table = folder / "mix.json", folder / "table.json"
    mix.write_text(json.dumps([{"kind": "txt2img", "model": "m", "width": 256, "height": 256, **entry}]))
    report = BenchReport(
        device="cpu",
        threads=1,
        torch="2",
        max_rows=16,
        tables=(make_table(),),
        images_per_s={"m txt2img": 1.0},
        cards=cards,
    )
    table.write_text(report.model_dump_json())
    return ["plan", "--rate", "20", "--mix", str(mix), "--p99", "0.8", "--table", str(table)]


def test_the_command_answers_for_people_and_programs(tmp_path: Path) -> None:
    arguments = write_inputs(tmp_path, steps=2, guidance_scale=4.0)
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "a worker each, keep 0.8 s for 99 % at 20 jobs/s" in shown.output
    assert "· step times of table.json, on cpu" in shown.output
    assert "· max_rows 32: m 4×32×32: calls of more than 16 rows weren't measured" in shown.output
    told = CliRunner().invoke(app, [*arguments, "--workers", "2", "--json"])
    answer = json.loads(told.output)
    assert answer["outlook"]["workers"] == 2
    assert answer["outlook"]["policy"]["buckets"] is False
    assert answer["outlook"]["policy"]["strict_rows"] == 4, "a worker's on a CPU"
    assert answer["met"] is True
    assert "all interactive" in answer["outlook"]["groups"]


def test_a_queue_that_grows_without_end_has_no_seconds(tmp_path: Path) -> None:
    arguments = [*write_inputs(tmp_path, steps=2, guidance_scale=4.0), "--workers", "1", "--rate"]
    narrow = CliRunner().invoke(app, [*arguments, "22"], env={"COLUMNS": "200"}).output
    rows = {line.split("│")[1].strip(): line for line in narrow.splitlines() if line.startswith("│")}
    assert "–" in rows["every job strict"]
    assert "–" not in rows["max_rows 16 (now)"] + rows["all"]
    assert "–: the queue grows without end" in narrow
    none = CliRunner().invoke(app, [*arguments, "300"], env={"COLUMNS": "200"}).output
    assert "don't keep 0.8 s for 99 % at 300 jobs/s: the queue grows without end." in none
    assert not re.search(r"\d\.\d\d ", none)


def test_a_table_of_another_kind_of_device_is_refused(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [*write_inputs(tmp_path, steps=2, guidance_scale=4.0), "--device-kind", "T4"])
    assert isinstance(told.exception, ConfigurationError)
    assert told.exception.detail.endswith("table.json was measured on cpu")


def test_it_says_whose_step_times_it_took(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    arguments = write_inputs(tmp_path, steps=2, guidance_scale=4.0)
    measured = {"4x32x32:rows:2": 0.02, "4x32x32:encode:txt2img": 0.01, "4x32x32:decode": 0.01, "store": 0.01}
    for kind in ("cpu", "NVIDIA H100"):
        publish(redis, "m", measured, kind)
    environment = {"COLUMNS": "200", "REDIS_URL": redis_url}
    live = [*arguments[: arguments.index("--table")], "--workers", "2", "--device-kind", "NVIDIA H100"]
    shown = CliRunner().invoke(app, live, env=environment)
    assert shown.exit_code == 0, shown.output
    assert "· step times of workers on NVIDIA H100 (measured as well: cpu)" in shown.output
    told = CliRunner().invoke(app, [*live, "--json"], env=environment)
    assert json.loads(told.output)["outlook"]["policy"]["buckets"] is True
    assert json.loads(told.output)["outlook"]["policy"]["strict_rows"] == 16
    told = CliRunner().invoke(app, [*live, "--json"], env={**environment, "LATENTD_STRICT_ROWS": "8"})
    assert json.loads(told.output)["outlook"]["policy"]["strict_rows"] == 8


def make_card(fields: tuple[str, ...] = ("prompt", "guidance_scale", "strength")) -> ModelCard:
    return ModelCard(
        id="m",
        description="",
        hash="",
        tasks=("txt2img",),
        native_size=256,
        latent_factor=8,
        defaults=CardDefaults(steps=2, sampler="ddim", guidance_scale=4.0, strength=0.5, img2img_strength=0.75),
        fields=fields,
        prediction_type="v",
        samplers=("ddim",),
        licence="",
    )


def test_what_a_mix_leaves_out_is_the_model_s_default(tmp_path: Path) -> None:
    short = CliRunner().invoke(app, [*write_inputs(tmp_path, make_card()), "--workers", "2", "--json"])
    long = write_inputs(tmp_path, make_card(), steps=2, guidance_scale=4.0)
    full = CliRunner().invoke(app, [*long, "--workers", "2", "--json"])
    assert json.loads(short.output)["outlook"] == json.loads(full.output)["outlook"]


def test_a_mix_without_defaults_is_refused_where_no_card_has_them(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, write_inputs(tmp_path, steps=2))
    assert isinstance(told.exception, ConfigurationError)
    assert told.exception.detail.startswith("--mix 0.guidance_scale: required, as the table has no card of m")


@pytest.mark.parametrize(
    ("kind", "fields", "wanted"),
    [
        ("txt2img", ("guidance_scale",), (4.0, None)),
        ("txt2img", (), (1.0, None)),
        ("inpaint", ("guidance_scale",), (4.0, 0.5)),
        ("img2img", ("guidance_scale",), (4.0, 0.75)),
        ("semantic2img", ("guidance_scale",), (1.0, None)),
    ],
)
def test_defaults_are_those_of_the_service(kind: Kind, fields: tuple[str, ...], wanted: tuple[float, float]) -> None:
    entry = MixEntry(kind=kind, model="m", width=64, height=64)
    (one,) = resolved((entry,), {"m": make_card(fields)})
    assert (one.steps, one.guidance_scale, one.strength) == (2, *wanted)


def test_a_distilled_model_has_its_guidance_inside_and_one_row_a_picture() -> None:
    entry = MixEntry(kind="txt2img", model="m", width=64, height=64)
    card = make_card()
    both = [resolved((entry,), {"m": one})[0] for one in (card, card.model_copy(update={"guidance_embedded": True}))]
    assert [(one.guidance_scale, one.request.rows_per_call) for one in both] == [(4.0, 2), (4.0, 1)]


def test_tables_come_from_what_workers_published(redis: Redis) -> None:
    redis.hset(CARDS_KEY, "m", make_card().to_json())
    publish(redis, "m", {"4x32x32:rows:2": 0.5, "store": 0.1})
    live = live_tables(redis, ["m", "none"])
    assert (live.device_kind, live.others, list(live.tables)) == ("cpu", (), ["m"])
    assert live.tables["m"].shapes[0].calls == {2: 0.5}
    assert live_cards(redis, ["m", "none"]) == {"m": make_card()}
    assert live_tables(redis, ["none"]).tables == {}


def test_of_several_kinds_of_devices_the_one_that_serves_is_planned_with(redis: Redis) -> None:
    for kind, seconds in (("cpu", 0.5), ("NVIDIA H100", 0.05)):
        publish(redis, "m", {"4x32x32:rows:2": seconds}, kind)
    with pytest.raises(ConfigurationError, match="no worker serves now; name one of NVIDIA H100, cpu"):
        live_tables(redis, ["m"])
    redis.zadd(serving_key("m"), {serving_member("a", "NVIDIA H100"): 2e10, serving_member("dead", "cpu"): 1})
    live = live_tables(redis, ["m"])
    assert (live.device_kind, live.others) == ("NVIDIA H100", ("cpu",))
    assert live.tables["m"].shapes[0].calls == {2: 0.05}
    redis.zadd(serving_key("m"), {serving_member("b", "cpu"): 2e10})
    with pytest.raises(ConfigurationError, match="several kinds of devices serve"):
        live_tables(redis, ["m"])
    assert live_tables(redis, ["m"], "cpu").tables["m"].shapes[0].calls == {2: 0.5}
    with pytest.raises(ConfigurationError, match="'NVIDIA T4': measured were NVIDIA H100, cpu"):
        live_tables(redis, ["m"], "NVIDIA T4")
