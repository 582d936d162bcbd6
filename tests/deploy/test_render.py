"""Boards are drawn from whatever Prometheus answers: gaps, several series, histograms, and nothing at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from deploy.grafana.boards import BOARDS
from deploy.grafana.panel import Board
from deploy.grafana.render import Span, render, written

SPAN = Span(1000.0, 1060.0, 5.0, "15s")


@dataclass
class Recorded:
    """Answers every expression with two series, one of them with a gap, or with none."""

    empty: bool = False
    asked: list[str] = field(default_factory=list)

    def range(
        self, expr: str, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        self.asked.append(expr)
        if self.empty:
            return []
        points = [(start + i * step, float(i)) for i in range(int((end - start) / step) + 1)]
        return [({"le": "1.0", "model": "a"}, points), ({"le": "+Inf", "model": "b"}, points[4:])]


@pytest.mark.parametrize("empty", [False, True])
def test_a_panel_of_each_kind_is_drawn(empty: bool, tmp_path: Path) -> None:
    kinds = {panel.kind: panel for board in BOARDS for panel in board.panels}
    source = Recorded(empty)
    render(Board("all", "All kinds", "", tuple(kinds.values())), source, SPAN, "made up", tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as picture:
        assert picture.width > 1000
    assert len(source.asked) == sum(len(panel.queries) for panel in kinds.values())
    assert not any("$" in expr for expr in source.asked)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.25, "percentunit", "25 %"),
        (2.5e9, "bytes", "2.5 GB"),
        (0.5, "s", "0.5 s"),
        (1500, "short", "1.5 k"),
        (3, "short", "3"),
    ],
)
def test_ticks_carry_units(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text
