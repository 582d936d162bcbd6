"""Commands of the user study: serve its page, report its answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from latentd.cli.console import Json, counted, plain, print_json, table_of
from latentd.cli.serve import settings_with

if TYPE_CHECKING:
    from latentd.preference.tally import Preference

PORT = 8010
SERVE = "serve"


class Served(TyperGroup):
    """Takes two folders without a command for those of `serve`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        known = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if known or not args else [SERVE, *args])


class Task(StrEnum):
    """Tasks of the paper's study."""

    REAL = "1"
    BETTER = "2"


app = typer.Typer(
    cls=Served,
    help="Ask people which of two pictures they prefer, blind: latentd preference A_DIR B_DIR; then report FILE.csv.",
    no_args_is_help=True,
)


@app.command(SERVE)
def serve(
    a: Annotated[Path, typer.Argument(metavar="A_DIR", help="Pictures of a method; in task 1 its samples.")],
    b: Annotated[
        Path, typer.Argument(metavar="B_DIR", help="Under the same names those of another; in task 1 the real ones.")
    ],
    task: Annotated[Task, typer.Option(help="1: which picture is real; 2: which is better.")] = Task.BETTER,
    given: Annotated[
        Path | None, typer.Option(help="Folder of what both were made from, shown between them: masked, or small.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="Ask this instead.")] = None,
    seconds: Annotated[
        float, typer.Option(min=0, max=60, help="Show a pair for so long, then ask (the paper: 3); 0: until answered.")
    ] = 0.0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Pairs that one participant sees, drawn by the seed.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides sides and orders.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV that answers are added to.")] = Path("preference.csv"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any.")] = PORT,
) -> None:
    """Serve the page of a study on this machine until Ctrl-C; the same command goes on where it ended."""
    import uvicorn

    from core.listen import listen
    from latentd.preference.answers import AnswerFile
    from latentd.preference.app import create_app
    from latentd.preference.pairs import read_pairs
    from latentd.preference.study import Study

    settings_with()
    pairs = read_pairs(a, b, given)
    study = Study(int(task), str(a), str(b), pairs, seed, limit, seconds, question)
    answers = AnswerFile(out, study)
    listening = listen("127.0.0.1", port, "--port")
    where = f"http://127.0.0.1:{listening.getsockname()[1]}"
    found = f"{counted(len(pairs), 'pair')}, {counted(answers.count, 'answer')} in {out}: {where}"
    plain(stderr=True).print(found, soft_wrap=True)
    config = uvicorn.Config(create_app(study, answers), log_config=None, access_log=False, server_header=False)
    with suppress(KeyboardInterrupt):  # how a study ends
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


@app.command()
def report(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="Answers of a study.")], json: Json = False
) -> None:
    """Print how often A was preferred, by each participant and by all: 95 % intervals (Wilson), an exact sign test."""
    from latentd.preference.answers import read_answers
    from latentd.preference.tally import tally

    answers = read_answers(file)
    found = tally(answers, file)
    task, a, b = answers[0].study
    if json:
        print_json({"task": task, "a": a, "b": b, "preferences": [asdict(each) for each in found]})
        return
    asked = f"{a} taken for real, beside {b}" if task == 1 else f"{a} preferred to {b}"
    table = table_of(
        "participant", "answers", "A", "share of A", "95 % interval", "p", title=f"Task {task}: A, {asked}"
    )
    for each in found:
        table.add_row(*_row(each))
    plain().print(table)


def _row(found: Preference) -> list[str]:
    counts = [found.participant or "all", str(found.answers), str(found.preferred_a)]
    return [*counts, f"{found.share_a:.1%}", f"{found.low:.1%} to {found.high:.1%}", f"{found.p:.3g}"]
