"""Where commands print. Names, paths and values are shown as they are: brackets and colons in them are no markup."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 100_000  # columns where nobody looks: no line is cut or broken for a reader that is a program

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def plain(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def table_of(*headers: str, title: str | None = None) -> Table:
    """Make a table whose cells go on in the next line where a terminal is narrow, and are never cut."""
    made = Table(title=title)
    for header in headers:
        made.add_column(header, overflow="fold")
    return made


def counted(number: int, noun: str) -> str:
    """`1 pair`, `2 pairs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_json(data: Any) -> None:
    """For programs; what JSON has no form for (a path, a time) is text."""
    # Where signs may be replaced, JSON has another way to say them.
    escaped = sys.stdout is not None and sys.stdout.encoding.lower() != "utf-8"
    typer.echo(json.dumps(data, indent=2, ensure_ascii=escaped, default=str))


def drop_output() -> None:
    """Give up what standard output didn't take, on which the interpreter's end would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
