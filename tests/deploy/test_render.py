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


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_boards_are_drawn(board: Board, tmp_path: Path) -> None:
    source = Recorded()
    render(board, source, SPAN, "made up", tmp_path / "board.png")
    assert Image.open(tmp_path / "board.png").width > 1000
    assert len(source.asked) == sum(len(panel.queries) for panel in board.panels)
    assert not any("$" in expr for expr in source.asked)


def test_a_board_without_data_is_drawn(tmp_path: Path) -> None:
    render(BOARDS[0], Recorded(empty=True), SPAN, "nothing", tmp_path / "board.png")
    assert (tmp_path / "board.png").stat().st_size > 0


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
