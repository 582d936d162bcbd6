"""Writes what a GPU run found into docs/benchmarks.md: `python -m tests.gpu.tables build/gpu`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latentd.bench.machine import Machine
from latentd.bench.report import Row, cell
from tests.gpu.run import SUMMARY
from tests.modules import ROOT

FILE = ROOT / "docs" / "benchmarks.md"
BETWEEN = re.compile(r"(?<=<!-- gpu -->\n).*?(?=<!-- end -->)", re.DOTALL)


def tables(folder: Path) -> str:
    """Markdown: how the run went, then a table for each bench; every row names card, date and versions."""
    summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    return "\n".join(("", *_course(summary, folder), *(_table(folder / f"{one['name']}.json") for one in summary)))


def _course(summary: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    for one in summary:
        ended = "left out" if one["status"] is None else f"status {one['status']}, {one['seconds']:.0f} s"
        told = _last_line(folder / "tests.log") if one["name"] == "tests" else one["reason"]
        yield f"- `{one['name']}`: {ended}{'; ' if told else ''}{told}"
    yield ""


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines() if log.is_file() else []
    return lines[-1].strip("= ") if lines else ""


def _table(file: Path) -> str:
    if not file.is_file():
        return ""
    report = json.loads(file.read_text("utf-8"))
    machine = report["machine"]
    versions = " ".join(
        f"{name} {number}" for name, number in {"torch": machine["torch"], **machine["packages"]}.items()
    )
    where = {"card": machine["device"], "date": machine["date"], "versions": versions}
    return f"### {file.stem}\n\n" + markdown({**report, "rows": [{**row, **where} for row in report["rows"]]})


def markdown(report: Mapping[str, Any]) -> str:
    """Make the table of a report that was read from its JSON file, a line of text for the machine above it."""
    rows: Sequence[Row] = report["rows"]
    columns = list(rows[0]) if rows else []
    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row.values()] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "".join(f"\n{note}\n" for note in report["notes"])
    return f"{Machine(**report['machine']).line}\n\n{table}\n{notes}"


def write(folder: Path, file: Path) -> None:
    """Put the tables of `folder` between the marks of `file`."""
    text = file.read_text("utf-8")
    if BETWEEN.search(text) is None:
        raise ValueError(f"{file} has no place for tables: <!-- gpu --> … <!-- end -->")
    made = tables(folder)
    file.write_text(BETWEEN.sub(lambda _: made + "\n", text), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), FILE)
