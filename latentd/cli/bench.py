"""`latentd bench`: what this machine needs for a call, by rows; the table that `latentd plan` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from latentd.cli.console import plain
from latentd.cli.serve import settings_with

if TYPE_CHECKING:
    from rich.console import Console

    from contract.measurements import StepTimes
    from workers.planner.files import BenchReport

Model = Annotated[
    list[str] | None, typer.Option(help="Checkpoint to measure; repeatable. Default: what a worker serves.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N. Default: the first GPU, else the CPU.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for `latentd plan --table`.")]


def bench(model: Model = None, device: Device = "auto", json: Json = False) -> None:
    """Measure calls of up to LATENTD_MAX_ROWS rows, encoding, decoding, storing, images/s, on a quiet machine."""
    from latentd.bench.step_times import measure, turns
    from workers.catalogue import chosen_cards
    from workers.loading import load_engine

    settings = settings_with()
    cards = list(chosen_cards(settings, model or []).values())
    columns = (TextColumn("measuring"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=plain(stderr=True), transient=True) as progress:
        bar = progress.add_task("turns", total=turns(cards, settings.max_rows))
        engine = load_engine(settings, [card.id for card in cards], device)
        report = measure(engine, cards, settings.max_rows, lambda: progress.advance(bar))
    if json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        show(report, plain())


def show(report: BenchReport, console: Console) -> None:
    """As tables for people."""
    console.print(f"{report.device}, {report.threads} threads, torch {report.torch}")
    for table in report.tables:
        console.print(_calls(table))
    speeds = Table("model and kind", "images/s", title=f"default request, calls of {report.max_rows} rows")
    for what, speed in report.images_per_s.items():
        speeds.add_row(what, f"{speed:.3g}")
    console.print(speeds)


def _calls(table: StepTimes) -> Table:
    made = Table("latent", "what", "ms", "ms per row or image", title=table.model)
    for times in table.shapes:
        latent = "×".join(map(str, times.shape))
        for rows, seconds in times.calls.items():
            made.add_row(latent, f"call of {rows} rows", _ms(seconds), _ms(seconds / rows))
        for kind, seconds in times.encode_s.items():
            made.add_row(latent, f"encode {kind}", _ms(seconds), "")
        if times.decode_s is not None:
            made.add_row(latent, "decode", "", _ms(times.decode_s))
    if table.store_s is not None:
        made.add_row("", "store", "", _ms(table.store_s))
    return made


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def register(app: typer.Typer) -> None:
    app.command()(bench)
