"""What a bench found: rows of named values, which are a JSON file, a table for people and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from latentd.bench.machine import Machine

Value: TypeAlias = str | int | float | None
Row: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Plot:
    """Which columns are drawn: one panel for each value of `panel`, one line for each of `series`."""

    x: str
    y: str
    series: str
    panel: str


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of one bench, all with the same columns in the same order."""

    bench: str
    machine: Machine
    rows: tuple[Row, ...]
    plot: Plot
    notes: tuple[str, ...] = ()

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def cell(value: Value) -> str:
    """Write a value for people: three digits of a number, an empty cell for what wasn't measured."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def show(report: Report, console: Console) -> None:
    """Print the table and what is to be known about it."""
    console.print(f"bench {report.bench}: {report.machine.line}")
    table = Table(*(report.rows[0] if report.rows else ()))
    for row in report.rows:
        table.add_row(*map(cell, row.values()))
    console.print(table)
    for note in report.notes:
        console.print(note, soft_wrap=True)


def draw(report: Report, file: Path) -> None:
    """Draw the plot into a file, in the format that its name ends with; matplotlib is needed."""
    from matplotlib.figure import Figure

    plot = report.plot
    panels = list(dict.fromkeys(row[plot.panel] for row in report.rows))
    figure = Figure(figsize=(1 + 5 * max(1, len(panels)), 5), layout="constrained")
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        rows = [row for row in report.rows if row[plot.panel] == panel and row[plot.y] is not None]
        for series in dict.fromkeys(row[plot.series] for row in rows):
            line = [row for row in rows if row[plot.series] == series]
            axes.plot([str(row[plot.x]) for row in line], [row[plot.y] for row in line], marker="o", label=str(series))  # type: ignore[arg-type]
        axes.set(title=str(panel), xlabel=plot.x, ylabel=plot.y)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", labelrotation=20)
        if rows:
            axes.legend(title=plot.series)
    figure.suptitle(report.machine.line, fontsize=7)
    figure.savefig(file)
