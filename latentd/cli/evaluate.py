"""Commands that measure: a checkpoint on a folder of pictures, and any methods' pictures in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ConfigurationError
from latentd.cli.console import Json, plain, print_json, table_of
from latentd.cli.train import computing, progress_bar

if TYPE_CHECKING:
    from models.evaluation.networks import Weights

app = typer.Typer(
    help="Measure a checkpoint (eval --model PATH --data FOLDER), or compare methods' pictures (eval compare DIR…)."
)

NETWORKS = "Given networks"
Data = Annotated[Path | None, typer.Option(help="Folder of pictures, with captions or labels as `train` reads them.")]
Limit = Annotated[int, typer.Option(min=5, help="Pictures that are measured in each part, at most.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides noise, masks, and what the small networks learn.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
TrainSteps = Annotated[int, typer.Option(min=1, help="Steps of the small networks that stand in for published ones.")]
Vgg = Annotated[Path | None, typer.Option(help="torchvision's VGG16, for LPIPS.", rich_help_panel=NETWORKS)]
Lpips = Annotated[Path | None, typer.Option(help="LPIPS's heads on VGG16.", rich_help_panel=NETWORKS)]
Inception = Annotated[Path | None, typer.Option(help="FID's Inception-v3, for FID and KID.", rich_help_panel=NETWORKS)]


class Task(StrEnum):
    """Tables of the paper."""

    SUPER_RESOLUTION = "super-resolution"
    INPAINTING = "inpainting"


@app.callback(invoke_without_command=True)
def checkpoint(
    context: typer.Context,
    model: Annotated[Path | None, typer.Option(help="Checkpoint: a folder or file of any layout.")] = None,
    data: Data = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the small networks, and of reports, each in one named by its model's id.")
    ] = Path("runs/eval"),
    limit: Limit = 256,
    seed: Seed = 0,
    device: Device = "auto",
    held_out: Annotated[
        float, typer.Option(min=0.001, max=0.99, help="Share of the data that is measured on, chosen by name.")
    ] = 0.1,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps; else the card's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=0, max=50, help="Else the card's.")] = None,
    train_steps: TrainSteps = 1000,
    vgg: Vgg = None,
    lpips: Lpips = None,
    inception: Inception = None,
    as_json: Json = False,
) -> None:
    """Measure reconstructions, samples, inpainting or super-resolution of a checkpoint, as far as it can do them."""
    if context.invoked_subcommand is not None:
        return
    if model is None or data is None:
        raise ConfigurationError("eval needs --model and --data, or the command compare; see eval --help")
    with computing():
        from models.evaluation.evaluate import Evaluation, evaluate, report_folder
        from models.evaluation.figures import HEADERS, as_data

        weights = _weights(vgg, lpips, inception)
        told = Evaluation(model, data, out, limit, seed, held_out, train_steps, steps, guidance_scale, weights=weights)
        with progress_bar("eval") as report:
            figures = evaluate(told, device, report)
    if as_json:
        print_json(as_data(figures))
        return
    _print(HEADERS, [figure.row() for figure in figures], f"{model} on {data}")
    plain(stderr=True).print(f"{report_folder(told)}: report.json and grids of the pictures", soft_wrap=True)


@app.command("compare")
def compare(
    dirs: Annotated[list[Path], typer.Argument(metavar="DIR…", help="A folder of pictures a method.")],
    data: Annotated[Path, typer.Option(help="Folder of what the pictures should be, under the same names.")],
    paper: Annotated[Task | None, typer.Option(help="Show, apart, what the paper published of this task.")] = None,
    out: Annotated[Path, typer.Option(help="Folder that keeps the small network.")] = Path("runs/eval"),
    limit: Annotated[int | None, typer.Option(min=5, help="Pictures that are compared, at most.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    train_steps: TrainSteps = 1000,
    vgg: Vgg = None,
    lpips: Lpips = None,
    inception: Inception = None,
    as_json: Json = False,
) -> None:
    """Score the pictures of any methods, a folder each, against the real ones of the same names."""
    with computing():
        from models.evaluation.compare import Comparison, table
        from models.evaluation.compare import compare as compared
        from models.evaluation.figures import as_data
        from models.evaluation.published import TASKS

        weights = _weights(vgg, lpips, inception)
        told = Comparison(tuple(dirs), data, out, limit, seed, train_steps, weights)
        with progress_bar("compare") as report:
            figures = compared(told, device, report)
    published = None if paper is None else TASKS[paper.value]
    if as_json:
        print_json({"figures": as_data(figures), "published": None if published is None else asdict(published)})
        return
    networks = "; ".join(dict.fromkeys(figure.network for figure in figures if figure.network))
    _print(*table(figures), f"{figures[0].pictures} pictures of {data}; {networks}")
    if published is not None:
        _print(published.columns, published.rows, published.title)


def _weights(vgg: Path | None, lpips: Path | None, inception: Path | None) -> Weights:
    from models.evaluation.networks import Weights

    if (vgg is None) != (lpips is None):
        raise ConfigurationError("--vgg and --lpips belong together: the network's weights and the heads on it")
    return Weights(vgg, lpips, inception)


def _print(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    made = table_of(*headers, title=title)
    for row in rows:
        made.add_row(*row)
    plain().print(made)
