"""The `latentd` command. Each group of commands is a file; what they need is imported when they run."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from core.version import __version__
from latentd.cli import bench, evaluate, info, keys, models, plan, preference, serve, train
from latentd.cli.drawing import commands
from latentd.cli.ending import told_to_people

app = typer.Typer(
    name="latentd",
    help="Turn prompts, masks and small pictures into images with latent diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for module in (serve, commands, info, bench, plan):
    module.register(app)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="eval")
app.add_typer(preference.app, name="preference")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn prompts, masks and small pictures into images with latent diffusion models."""


def process() -> None:
    """Be the process: run the command, and end."""
    for stream in (sys.stdout, sys.stderr):
        # A sign that the terminal's encoding lacks is no reason to fail.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    try:
        main()
    except SystemExit as ended:
        _leave(ended)
        raise


def main() -> None:
    """Run the command; an expected error is one line on standard error and exit code 1, a fault of ours 70."""
    try:
        app()
    except Exception as error:  # told from what can't work, after which nobody starts the command again
        sys.exit(told_to_people(error))


def _leave(ended: SystemExit) -> None:
    """End the process at once where a compiler was at work: its own ending waits for its helpers, for minutes, and
    Python aborts a process whose threads still compile."""
    fused = sys.modules.get("models.pipeline.fused")
    if "torch._inductor.async_compile" in sys.modules or (fused is not None and fused.making()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # who read it is gone, or the disk is full
                stream.flush()
        for helper in multiprocessing.active_children():
            helper.terminate()
        os._exit(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
