"""`latentd plan`: how many GPUs a load needs, answered by simulating the service on measured step times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from core.errors import ConfigurationError
from core.settings import Settings
from latentd.cli.console import Json, plain, print_json
from latentd.cli.serve import settings_with

if TYPE_CHECKING:
    from rich.console import Console

    from contract.card import ModelCard
    from contract.measurements import StepTimes
    from workers.engine.scheduler import Policy
    from workers.planner.answer import Outlook, Planner, Waits

LARGEST = 1e9  # of any number given
ENDLESS = "the queue grows without end"

Rate = Annotated[float, typer.Option(min=1e-6, help="Jobs per second.")]
Mix = Annotated[Path, typer.Option(help="JSON list of request classes (docs/capacity.md).")]
P99 = Annotated[float, typer.Option(min=1e-3, help="Seconds from request to result that 99 % must keep.")]
TableFile = Annotated[
    Path | None, typer.Option(help="Step times from `latentd bench --json`. Default: what workers published to Redis.")
]
DeviceKind = Annotated[
    str | None,
    typer.Option(help="Whose step times: cpu, or a GPU's name. Default: the only kind that was measured, or serves."),
]
Workers = Annotated[int | None, typer.Option(min=1, max=1000, help="Look at this many instead of the fewest.")]
Seed = Annotated[int, typer.Option(help="Of the arrivals.")]
RedisJobs = Annotated[float | None, typer.Option(min=1, help="Jobs per second that Redis serves.")]
RedisSteps = Annotated[float | None, typer.Option(min=1, help="Step events per second that Redis serves.")]


def plan(
    rate: Rate,
    mix: Mix,
    p99: P99,
    table: TableFile = None,
    device_kind: DeviceKind = None,
    workers: Workers = None,
    seed: Seed = 0,
    redis_jobs: RedisJobs = None,
    redis_steps: RedisSteps = None,
    json: Json = False,
) -> None:
    """Simulate the load on the real scheduler: fewest GPUs, waits, occupancy, and what other policies would do."""
    from workers.planner.answer import Load, Planner, enough_jobs
    from workers.planner.costs import price
    from workers.planner.files import read_mix
    from workers.planner.mix import resolved

    _bounded(rate=rate, p99=p99, redis_jobs=redis_jobs, redis_steps=redis_steps)
    settings, entries = settings_with(), read_mix(mix)
    measured = tables_of(settings, table, {one.model for one in entries}, device_kind)
    classes = resolved(entries, measured.cards)
    costs = price(classes, measured.tables)
    costs = replace(costs, assumed=(measured.whose, *costs.assumed))
    load = Load(classes, rate, enough_jobs(classes), seed)
    planner = Planner(load, costs, _limits(redis_jobs, redis_steps))
    policy = _policy(settings, measured.device_kind)
    best = planner.outlook(workers, policy) if workers else planner.least(p99, policy)
    others = planner.compare(best.workers, policy)
    if json:
        print_json(answer(planner, best, others, p99))
    else:
        show(planner, best, others, p99, plain())


def _bounded(**options: float | None) -> None:
    """Options have a lower bound by themselves; numbers near infinity would overflow."""
    for name, value in options.items():
        if value is not None and not value <= LARGEST:
            detail = f"--{name.replace('_', '-')} {value:g}: at most {LARGEST:g}"
            raise ConfigurationError(detail, field=name, value=str(value), bound=LARGEST)


@dataclass(frozen=True, slots=True)
class Tables:
    """Step-time tables and cards, by model, of one kind of device, and a sentence on whose they are."""

    tables: Mapping[str, StepTimes]
    cards: Mapping[str, ModelCard]
    device_kind: str
    whose: str


def tables_of(settings: Settings, file: Path | None, models: set[str], device_kind: str | None) -> Tables:
    """Of the file, else of one kind of the workers' devices."""
    from latentd.cli.keys import connect
    from workers.planner.files import live_cards, live_tables, read_report

    if file is None:
        with connect(settings) as redis:
            live, cards = live_tables(redis, models, device_kind), live_cards(redis, models)
        others = f" (measured as well: {', '.join(live.others)})" if live.others else ""
        return Tables(live.tables, cards, live.device_kind, f"step times of workers on {live.device_kind}{others}")
    report = read_report(file)
    if device_kind not in (None, report.device):
        detail = f"--device-kind {device_kind!r}: {file} was measured on {report.device}"
        raise ConfigurationError(detail, field="device_kind", value=device_kind, bound=report.device)
    tables = {table.model: table for table in report.tables}
    cards = {card.id: card for card in report.cards}
    return Tables(tables, cards, report.device, f"step times of {file.name}, on {report.device}")


def _policy(settings: Settings, device_kind: str) -> Policy:
    from workers.engine.scheduler import Policy

    return Policy(settings.max_rows, settings.strict_rows_on(device_kind), buckets=device_kind != "cpu")


def _limits(jobs: float | None, steps: float | None) -> Any:
    from workers.planner.simulation import RedisLimits

    given = {"jobs_per_s": jobs, "steps_per_s": steps}
    return RedisLimits(**{name: value for name, value in given.items() if value is not None})


def answer(planner: Planner, best: Outlook, others: dict[str, Outlook], p99: float) -> dict[str, Any]:
    """As JSON: seconds, shares of 1."""
    return {
        "rate": planner.load.rate,
        "p99_s": p99,
        "met": best.meets(p99),
        "outlook": asdict(best),
        "policies": {name: asdict(other) for name, other in others.items()},
        "assumed": [*planner.costs.assumed, *best.assumed],
        "simulated_jobs": planner.jobs,
        "seconds": round(planner.spent_s, 2),
    }


def show(planner: Planner, best: Outlook, others: dict[str, Outlook], p99: float, console: Console) -> None:
    """For people: the number first."""
    load, verdict = planner.load, "keep" if best.meets(p99) else "don't keep"
    gpus = "GPU" if best.workers == 1 else "GPUs"
    total = f"p99 {best.total.p99:.2f} s, mean {best.total.mean:.2f} s" if best.steady else ENDLESS
    console.print(
        f"{best.workers} {gpus}, a worker each, {verdict} {p99:g} s for 99 % at {load.rate:g} jobs/s: {total}.",
        style="bold",
    )
    console.print(
        f"{best.busy_share:.0%} busy, {best.rows_per_call:.1f} rows a call, Redis {best.redis_load:.0%} busy."
    )
    console.print(_waits(best))
    console.print(_policies(best, others))
    for line in (*planner.costs.assumed, *best.assumed, *_beyond(best, others), _simulated(planner, best)):
        console.print(f"· {line}", soft_wrap=True)


def _beyond(best: Outlook, others: dict[str, Outlook]) -> list[str]:
    """What other policies assume beyond this one."""
    return [f"{name}: {line}" for name, other in others.items() for line in other.assumed if line not in best.assumed]


def _simulated(planner: Planner, best: Outlook) -> str:
    part = ""
    if best.simulated < best.workers:
        part = f", {best.simulated} of {best.workers} workers with their part of the load and of Redis"
    return f"simulated: {planner.load.count} jobs a run{part}, {planner.jobs} in all, {planner.spent_s:.1f} s"


def _waits(best: Outlook) -> Table:
    made = Table("jobs", "wait mean", "p50", "p99", "result mean", "p50", "p99", title="seconds")
    for name, waits in {**best.groups, "all": best.total}.items():
        made.add_row(name, *_cells(waits, best.steady))
    return made


def _cells(waits: Waits, steady: bool) -> list[str]:
    values = (waits.wait_mean, waits.wait_p50, waits.wait_p99, waits.mean, waits.p50, waits.p99)
    return _seconds(values, steady)


def _seconds(values: Iterable[float], steady: bool) -> list[str]:
    """Where a queue grows, jobs wait the longer the longer it is looked at: no number says how long."""
    return [f"{value:.2f}" if steady else "–" for value in values]


def _policies(best: Outlook, others: dict[str, Outlook]) -> Table:
    lanes = [name for name in best.groups if name.startswith("all ")]
    heads = [f"{name.removeprefix('all ')} p99" for name in lanes]
    made = Table("policy", "mean", "p99", *heads, "rows a call", "busy", title=f"the same jobs on {best.workers} GPUs")
    policies = {f"max_rows {best.policy.max_rows} (now)": best, **others}
    made.caption = None if all(one.steady for one in policies.values()) else f"–: {ENDLESS}"
    for name, one in policies.items():
        values = (one.total.mean, one.total.p99, *(one.groups[lane].p99 for lane in lanes))
        made.add_row(name, *_seconds(values, one.steady), f"{one.rows_per_call:.1f}", f"{one.busy_share:.0%}")
    return made


def register(app: typer.Typer) -> None:
    app.command()(plan)
