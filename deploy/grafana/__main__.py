"""Writes deploy/grafana/dashboards/*.json."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.boards import BOARDS
from deploy.grafana.build import to_json

FOLDER = Path(__file__).resolve().parent / "dashboards"

for board in BOARDS:
    (FOLDER / f"{board.name}.json").write_text(to_json(board), "utf-8")
