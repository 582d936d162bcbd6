"""What a dashboard consists of, free of Grafana's schema: boards, rows of panels, queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["lines", "stacked", "heatmap", "number"]


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL and how its series are named; `$model` and `$__rate_interval` are Grafana's to fill in."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure. `unit` is Grafana's id of a unit; `bottom` and `top` fix the axis, e.g. 1 for shares."""

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "lines"
    bottom: float | None = 0
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; `name` is its uid and its file's name."""

    name: str
    title: str
    about: str
    panels: tuple[Panel, ...]


def rate(counter: str, by: str) -> str:
    """Sum of a counter's rates a second, of the chosen models."""
    return f'sum by ({by}) (rate({counter}{{model=~"$model"}}[$__rate_interval]))'


def quantile(q: float, histogram: str, by: str, where: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({histogram}_bucket{{{where}}}[$__rate_interval])))"
