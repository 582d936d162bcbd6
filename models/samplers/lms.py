"""Linear multistep over stored eps (Katherine Crowson's k-diffusion, `lms`): Adams–Bashforth on uneven steps of σ.

x = z/α follows dx/dσ = eps. The last four eps are interpolated by a polynomial in σ, which is integrated over the step.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.polynomial import Polynomial

from models.samplers.levels import without_signal
from models.samplers.plms import eps_row
from models.samplers.single_step import euler
from models.samplers.steps import Interval
from models.samplers.table import Row
from models.schedule import ScheduleConfig

ORDER = 4


def lms(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Rows that store eps. A first step from no signal is taken in x0, and not read by
    later ones: the weight of an eps at σ → ∞ goes to 0."""
    first = euler(intervals[:1], config) if without_signal(intervals[0].start) else ()
    rest = intervals[len(first) :]
    return (*first, *(_row(rest, config, i, len(first)) for i in range(len(rest))))


def _row(intervals: Sequence[Interval], config: ScheduleConfig, i: int, before: int) -> Row:
    interval = intervals[i]
    weights = [interval.end.alpha * c for c in _coefficients(intervals, i)]
    keep = interval.end.alpha / interval.start.alpha
    return eps_row(interval, config, before + i + 1, keep, tuple(weights))


def _coefficients(intervals: Sequence[Interval], i: int) -> list[float]:
    """What each of the newest eps weighs: the integrals of their Lagrange polynomials over the step."""
    nodes = [interval.start.ratio for interval in intervals[max(0, i - ORDER + 1) : i + 1]][::-1]
    nodes = nodes[: _distinct(nodes)]
    end = intervals[i].end.ratio
    return [_integral(nodes, k, end) for k in range(len(nodes))]


def _integral(nodes: Sequence[float], k: int, end: float) -> float:
    # In units of the step and from its start, so that powers of σ stay small.
    origin, unit = nodes[0], (end - nodes[0]) or 1.0
    product = Polynomial([1.0])
    for j, node in enumerate(nodes):
        if j != k:
            product *= Polynomial([(origin - node) / (nodes[k] - node), unit / (nodes[k] - node)])
    return float(product.integ()((end - origin) / unit) * unit)


def _distinct(nodes: Sequence[float]) -> int:
    """How many of the newest nodes differ from each other: a repeated timestep adds nothing to interpolate."""
    return next((i for i in range(1, len(nodes)) if nodes[i] <= nodes[i - 1]), len(nodes))
