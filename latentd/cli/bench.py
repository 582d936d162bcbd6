"""`latentd bench`: what this machine needs for a call, by rows; the table that `latentd plan` reads.

Its commands compare our work with others': `bench engine`, `bench serve`, `bench paper`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.errors import ConfigurationError
from latentd.cli.console import plain
from latentd.cli.serve import Device, settings_with

if TYPE_CHECKING:
    from rich.console import Console

    from contract.measurements import StepTimes
    from latentd.bench.report import Report
    from workers.planner.files import BenchReport

Model = Annotated[
    list[str] | None,
    typer.Option(help="Checkpoint to measure; repeatable. Default: LATENTD_MODEL and the first of each task it lacks."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for `latentd plan --table`.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write what was found as JSON, too.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Draw it: .png, .svg or .pdf. Needs matplotlib.")]
Rounds = Annotated[int, typer.Option(min=1, help="Runs of each, beside one to warm up; their median counts.")]
Budget = Annotated[
    float, typer.Option(min=0, help="Seconds after which nothing new begins; what is left out is named.")
]
Tiny = Annotated[bool, typer.Option("--tiny", help="Toy networks: to see that the bench runs.")]

app = typer.Typer(
    name="bench",
    invoke_without_command=True,
)


@app.callback()
def bench(context: typer.Context, model: Model = None, device: Device = "auto", json: Json = False) -> None:
    """Measure calls of up to LATENTD_MAX_ROWS rows, encoding, decoding, storing, images/s, on a quiet machine.

    The commands below compare our work with others'.
    """
    if context.invoked_subcommand is not None:
        return
    from latentd.bench.step_times import measure, turns
    from workers.library.catalogue import chosen_cards
    from workers.library.loading import load_engine

    settings = settings_with()
    cards = list(chosen_cards(settings, model or []).values())
    with _progress(turns(cards, settings.max_rows)) as advance:
        engine = load_engine(settings, [card.id for card in cards], device)
        report = measure(engine, cards, settings.max_rows, advance)
    if json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        show(report, plain())


@app.command()
def engine(
    model: Annotated[
        list[str] | None,
        typer.Option(help="emoji, sd15, sdxl or ldm-text-large; repeatable. Default: all on a GPU, emoji on a CPU."),
    ] = None,
    side: Annotated[
        list[str] | None, typer.Option(help="Side to measure; repeatable. Default: all, on a CPU not the compiled one.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures at a time; repeatable. Default: 1 to 32, on a CPU to 8.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps of a run. Default: the model's own, on a CPU 4; others extrapolated."),
    ] = None,
    rounds: Rounds = 3,
    budget: Budget = math.inf,
    device: Device = "auto",
    tiny: Tiny = False,
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Compare our loop with diffusers' on the same weights: eager, channels_last, half precision, compiled."""
    check_files(json, plot)
    from latentd.bench import engine_speed
    from latentd.bench.shapes import SHAPES
    from workers.library.loading import choose_device

    settings, where = settings_with(), choose_device(device)
    on_cpu = where == "cpu"
    sides = [name for name in engine_speed.SIDES if not (on_cpu and name in engine_speed.SLOW)]
    plan = engine_speed.Plan(
        models=_known("model", model or (["emoji"] if on_cpu else list(SHAPES)), list(SHAPES)),
        sides=_known("side", side or sides, list(engine_speed.SIDES)),
        batches=batch or [size for size in engine_speed.BATCHES if not on_cpu or size <= CPU_BATCH],
        steps=steps or (CPU_STEPS if on_cpu else None),
        rounds=rounds,
        budget_s=budget,
        tiny=tiny,
    )
    with _progress(engine_speed.runs_of(plan)) as advance:
        report = engine_speed.bench(settings, plan, where, advance)
    write(report, json, plot)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="Checkpoint that draws from text, in diffusers' layout.")] = "emoji",
    size: Annotated[int | None, typer.Option(min=64, help="Pixels a side. Default: the model's.")] = None,
    jobs: Annotated[int, typer.Option(min=2, help="Jobs of each run.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side at each load, in turn.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    policies: Annotated[bool, typer.Option(help="Compare ways to batch on one engine.")] = True,
    http: Annotated[bool, typer.Option(help="Compare servers over HTTP: latentd, LitServe and plain FastAPI.")] = True,
    peers: Annotated[
        Path | None,
        typer.Option(help="Environment of the other servers, made if it isn't there. Default: in LATENTD_DATA_DIR."),
    ] = None,
    device: Device = "auto",
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Compare what clients wait at 50, 70 and 90 % of capacity: Poisson arrivals of mixed steps and tasks."""
    check_files(json, plot)
    from latentd.bench.serve import bench as serving
    from workers.library.catalogue import find_cards

    settings = settings_with()
    _known("model", [model], list(find_cards(settings.models_dir)))
    where = peers or settings.data_dir / "bench-peers"
    setup = serving.Setup(settings, model, device, size, jobs, rounds, seed, where)
    with _progress(serving.total(setup, engine=policies, http=http)) as advance:
        report = serving.bench(setup, engine=policies, http=http, on_run=advance)
    write(report, json, plot)


@app.command()
def paper(
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures at a time. Default: 16, on a CPU 1.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a run. Default: the paper's, on a CPU 2; others extrapolated.")
    ] = None,
    rounds: Rounds = 1,
    budget: Budget = math.inf,
    device: Device = "auto",
    tiny: Tiny = False,
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Rebuild the throughput tables of the latent diffusion paper, random weights: inpainting and super-resolution."""
    check_files(json, plot)
    from latentd.bench import paper as tables
    from workers.library.loading import choose_device

    settings, where = settings_with(), choose_device(device)
    on_cpu = where == "cpu"
    size = tables.CPU_BATCH if on_cpu else tables.GPU_BATCH
    plan = tables.Plan(batch or size, steps or (2 if on_cpu else None), rounds, budget, tiny)
    with _progress(tables.runs_of(plan)) as advance:
        report = tables.bench(settings, plan, where, advance)
    write(report, json, plot)


CPU_STEPS, CPU_BATCH = 4, 8
DRAWN = [".png", ".svg", ".pdf"]


def check_files(json: Path | None, plot: Path | None) -> None:
    """Find out before minutes have passed that a file can't be written.

    Raises:
        ConfigurationError: its folder isn't there or isn't ours to write in, or it is a folder itself; nothing is drawn
            in files of that name; matplotlib isn't installed.
    """
    for option, file in (("json", json), ("plot", plot)):
        if file is not None and (reason := _unwritable(file)):
            raise ConfigurationError(f"--{option} {file}: {reason}", field=option, value=str(file))
    if plot is not None and plot.suffix.lower() not in DRAWN:
        detail = f"--plot {plot}: ends in none of {', '.join(DRAWN)}"
        raise ConfigurationError(detail, field="plot", value=str(plot), bound=DRAWN)
    if plot is not None and find_spec("matplotlib") is None:
        detail = f"--plot {plot}: needs matplotlib; pip install 'latentd[dev]'"
        raise ConfigurationError(detail, field="plot", value=str(plot))


def _unwritable(file: Path) -> str | None:
    folder = file.absolute().parent
    if not folder.is_dir():
        return "no such folder"
    if file.is_dir():
        return "it is a folder"
    return None if os.access(file if file.exists() else folder, os.W_OK) else "no permission to write there"


def write(report: Report, json: Path | None, plot: Path | None) -> None:
    """Print the table, and write the files that were asked for."""
    from latentd.bench.report import draw
    from latentd.bench.report import show as show_rows

    show_rows(report, plain())
    if json is not None:
        json.write_text(report.json(), "utf-8")
    if plot is not None:
        draw(report, plot)


def _known(option: str, names: list[str], known: list[str]) -> list[str]:
    for name in names:
        if name not in known:
            detail = f"--{option} {name!r}: there are {', '.join(known) or 'none'}"
            raise ConfigurationError(detail, field=option, value=name, bound=known)
    return names


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("measuring"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=plain(stderr=True), transient=True) as progress:
        bar = progress.add_task("turns", total=total)
        yield lambda: progress.advance(bar)


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


def register(parent: typer.Typer) -> None:
    parent.add_typer(app)
