"""Draws docs/images/board-*.png: `python -m tests.deploy.draw`; three minutes of load with troubles in between.

Tiny models on the CPU; what a GPU tells is the stand-in's, and the pictures say so. Panels are drawn by matplotlib from
what Prometheus answers, since no Grafana runs here.
"""

from __future__ import annotations

import math
import random
import re
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, start_http_server

from deploy.grafana.boards import BOARDS
from deploy.grafana.panel import Board, Panel
from tests.deploy import troubles
from tests.deploy.files import ROOT
from tests.deploy.prometheus import Prometheus
from tests.nvml import UUID, StandInNvml
from tests.service import Service
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from workers.metrics.gpu import Gpu, GpuCollector

SECONDS, A_SECOND = 120.0, 2.0
NOTE = "A load run of the test models on a CPU, scraped by Prometheus. GPU values are a stand-in's, made up (no GPU)."
COLUMNS, WIDTH, HEIGHT = 3, 5.6, 2.9  # panels a row; inches of one
BACK, FACE, TEXT, GRID = "#111217", "#181b1f", "#ccccdc", "#2c3235"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#ffcb7d", "#96d98d", "#ca95e5")
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
UNITS = {"s": " s", "ms": " ms", "percentunit": " %", "bytes": "B", "watt": " W", "joule": " J", "flops": "FLOP/s"}

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """One line: values at the same times as all others of its panel, NaN where there are none."""

    labels: dict[str, str]
    legend: str
    values: Values


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when, in Unix seconds, how finely, and over which window rates are taken."""

    start: float
    end: float
    step: float
    window: str

    @property
    def times(self) -> Values:
        return np.arange(self.start, self.end + self.step / 2, self.step)


def draw(board: Board, source: Prometheus, span: Span, note: str, path: Path) -> None:
    """Draw all panels of a board; `note` says in the head where the numbers come from."""
    rows = math.ceil(len(board.panels) / COLUMNS)
    with pyplot.rc_context(_style()):
        figure, grid = pyplot.subplots(
            rows, COLUMNS, figsize=(COLUMNS * WIDTH, rows * HEIGHT + 0.7), squeeze=False, layout="constrained"
        )
        figure.suptitle(f"{board.title} – {note}", x=0.01, ha="left", fontsize=11)
        for axes in grid.flat[len(board.panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, board.panels, strict=False):
            _draw(axes, panel, _series(panel, source, span), span)
        figure.savefig(path, dpi=70)
        pyplot.close(figure)


def _style() -> dict[Any, Any]:
    colours = {"figure.facecolor": BACK, "axes.facecolor": FACE, "axes.edgecolor": GRID, "grid.color": GRID}
    texts = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
    return {**colours, **texts, "font.size": 8, "axes.grid": True, "axes.titlesize": 9.5, "axes.titlelocation": "left"}


def _series(panel: Panel, source: Prometheus, span: Span) -> list[Series]:
    found = []
    for query in panel.queries:
        expr = query.expr.replace("$__rate_interval", span.window).replace("$model", ".*")
        for labels, points in source.range(expr, span.start, span.end, span.step):
            legend = re.sub(r"{{(\w+)}}", lambda name, of=labels: of.get(name[1], ""), query.legend)  # type: ignore[misc]
            found.append(Series(labels, legend.strip() or "all", _aligned(points, span)))
    return found


def _aligned(points: Sequence[tuple[float, float]], span: Span) -> Values:
    values = np.full(len(span.times), np.nan)
    for moment, value in points:
        values[round((moment - span.start) / span.step)] = value
    return values


def _draw(axes: Axes, panel: Panel, series: list[Series], span: Span) -> None:
    axes.set_title(panel.title)
    minutes = (span.times - span.start) / 60
    if not series:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center")
        return
    if panel.kind == "heatmap":
        _heat(axes, series, minutes)
        return
    for one, colour in zip(series, COLOURS * 3, strict=False):
        axes.plot(minutes, one.values, color=colour, linewidth=1.4, label=one.legend)
    if panel.kind == "stacked":
        _stack(axes, series, minutes)
    axes.set_ylim(0, 1.05 * panel.top if panel.top else None)
    axes.set_xlim(0, minutes[-1])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, panel.unit)))
    if len(series) <= len(COLOURS):
        axes.legend(fontsize=6.5, loc="upper left", framealpha=0.6, facecolor=FACE, edgecolor=GRID, ncols=2)


def _stack(axes: Axes, series: list[Series], minutes: Values) -> None:
    for line in list(axes.lines):
        line.remove()
    filled = [np.nan_to_num(one.values) for one in series]
    axes.stackplot(minutes, *filled, labels=[one.legend for one in series], colors=COLOURS, alpha=0.75)


def _heat(axes: Axes, series: list[Series], minutes: Values) -> None:
    """Buckets are cumulative: each less the one below it."""
    ordered = sorted(series, key=lambda one: float(one.labels["le"]))
    counts = np.diff(np.nan_to_num([one.values for one in ordered]), axis=0, prepend=0)  # bucket, time
    axes.pcolormesh(minutes, np.arange(len(ordered)), np.clip(counts, 0, None), cmap="inferno", shading="nearest")
    axes.set_yticks(range(len(ordered)), [f"≤ {one.labels['le'].removesuffix('.0')}" for one in ordered])
    axes.grid(False)


def written(value: float, unit: str) -> str:
    """A tick's label: percent of shares, prefixes of large numbers."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{UNITS.get(unit, '').strip()}"
    return f"{value:.3g}{UNITS.get(unit, '')}"


class Load(threading.Thread):
    """Jobs of mixed steps, sizes and lanes at random moments, until stopped; the stand-in's card follows them."""

    def __init__(self, service: Service, card: StandInNvml) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._card = card
        self.stopping = threading.Event()

    def run(self) -> None:
        dice, began = random.Random(0), time.monotonic()
        while not self.stopping.is_set():
            wave = 0.6 + 0.4 * math.sin((time.monotonic() - began) / 12)
            self._card.utilization = int(60 + 38 * wave * dice.random())
            self._card.milliwatts = 120_000 + 5_500 * self._card.utilization
            self._one(dice)
            self.stopping.wait(dice.expovariate(A_SECOND * wave))

    def _one(self, dice: random.Random) -> None:
        fields = {"prompt": "red heart", "steps": dice.choice((4, 20, 50)), "guidance_scale": dice.choice((1.0, 4.0))}
        lane = dice.choice(("interactive", "interactive", "bulk"))
        self._service.client.post(
            "/v1/txt2img", json={**fields, "priority": lane, "num_images": dice.choice((1, 1, 2))}
        )


def have_trouble(service: Service) -> None:
    troubles.refuse_some(service)
    time.sleep(15)
    killed = troubles.kill_a_worker(service)
    troubles.refuse_some(service)
    troubles.take_storage_away(service)
    time.sleep(10)
    troubles.cancel_one(service)
    troubles.split_a_batch(service)
    troubles.draw_some(service)
    troubles.finish(service, killed)


def record(service: Service) -> None:
    card, registry = StandInNvml(), CollectorRegistry()
    registry.register(GpuCollector(Gpu(card, UUID, "0", 989.4e12)))
    server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    worker = f"127.0.0.1:{service.worker_metrics_port}"
    targets = {"latentd-gateway": f"127.0.0.1:{service.port}", "latentd-worker": worker}
    jobs = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()]
    stand_in = {"targets": [f"127.0.0.1:{server.server_port}"], "labels": {"instance": worker}}
    jobs.append({"job_name": "stand-in", "static_configs": [stand_in]})
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs}
    with Prometheus(config) as prometheus:
        began, load = time.time(), Load(service, card)
        load.start()
        have_trouble(service)
        time.sleep(max(0.0, SECONDS - (time.time() - began)))
        load.stopping.set()
        load.join()
        troubles.lose_an_upload(service)
        time.sleep(5)
        span = Span(began + 8, time.time(), 1.0, "15s")
        for board in BOARDS:
            file = ROOT / "docs" / "images" / f"board-{board.name.removeprefix('latentd-')}.png"
            draw(board, prometheus, span, NOTE, file)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_inpaint(Path(folder) / "tiny")
        write_tiny_upscale(Path(folder) / "tiny-upscale")
        env = {"LATENTD_MODELS_DIR": folder, "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with Service(env | troubles.MALLOC) as started:
            record(started)
