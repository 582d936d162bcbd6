"""From our boards to Grafana's JSON, through its own SDK."""

from __future__ import annotations

from typing import TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    GridPos,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.panel import Board, Panel, Query

COLUMNS, HEIGHT = 3, 8  # panels a row; Grafana's grid is 24 wide
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Figure: TypeAlias = timeseries.Panel | heatmap.Panel | stat.Panel


def to_json(board: Board) -> str:
    """The dashboard's file, sorted, so that a change of code is a small change of it."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.name)
        .description(board.about)
        .tags(["latentd"])
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_models())
    )
    for index, panel in enumerate(board.panels):
        built.with_panel(_figure(panel).id(index + 1).grid_pos(_place(index)))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _models() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("model")
        .label("Model")
        .datasource(SOURCE)
        .query("label_values(latentd_workers, model)")
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _place(index: int) -> GridPos:
    width = 24 // COLUMNS
    return GridPos(x=index % COLUMNS * width, y=index // COLUMNS * HEIGHT, w=width, h=HEIGHT)


def _figure(panel: Panel) -> Figure:
    figure = _of_kind(panel).title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit)
    for index, query in enumerate(panel.queries):
        figure.with_target(_target(query, chr(ord("A") + index), heat=panel.kind == "heatmap"))
    return figure


def _of_kind(panel: Panel) -> Figure:
    if panel.kind == "heatmap":
        return heatmap.Panel().calculate(False).show_value(shapes.VisibilityMode.NEVER)
    if panel.kind == "number":
        return (
            stat.Panel()
            .graph_mode(shapes.BigValueGraphMode.AREA)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
    lines = timeseries.Panel().line_width(2).show_points(shapes.VisibilityMode.NEVER)
    lines.tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI))
    lines.legend(common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM))
    if panel.bottom is not None:
        lines.min(panel.bottom)
    if panel.top is not None:
        lines.max(panel.top)
    if panel.kind == "stacked":
        lines.fill_opacity(25).stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    return lines


def _target(query: Query, ref: str, heat: bool) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend).range()
    return target.format(PromQueryFormat.HEATMAP) if heat else target
