"""PLMS (Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models"): Adams–Bashforth over stored eps."""

from __future__ import annotations

from collections.abc import Sequence

from models.samplers.levels import without_signal
from models.samplers.single_step import ddim
from models.samplers.steps import Interval
from models.samplers.table import Row, eps_form
from models.schedule import ScheduleConfig

_ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Rows that store eps; the first step is an improved Euler step of two rows (as in the original's code), then
    orders 2, 3 and 4. A step that is the only one is a plain one: no timestep is left for its second eps.

    From zero signal eps says nothing of x0, so that such a first step is taken to first order in x0 instead.
    """
    if without_signal(intervals[0].start):
        first = ddim(intervals[:1], config, 0.0)
        return (*first, *_from_eps(intervals[1:], config, 2))
    return _from_eps(intervals, config, 1)


def _from_eps(intervals: Sequence[Interval], config: ScheduleConfig, step: int) -> tuple[Row, ...]:
    if len(intervals) < 2:
        return tuple(_euler_row(interval, config, step) for interval in intervals)
    later = [_adams_row(interval, config, step + m, m) for m, interval in enumerate(intervals) if m > 0]
    return (*_improved_euler(intervals, config, step), *later)


def _improved_euler(intervals: Sequence[Interval], config: ScheduleConfig, step: int) -> tuple[Row, Row]:
    """z' by the mean of eps here and eps at the end of a plain step: the second row starts there, and only has to
    replace half of the first eps by its own."""
    first, there = intervals[:2]
    _, weight = _transfer(first)
    return (
        _euler_row(first, config, step),
        eps_row(there, config, step, 1.0, (weight / 2, -weight / 2)),
    )


def _euler_row(interval: Interval, config: ScheduleConfig, step: int) -> Row:
    keep, weight = _transfer(interval)
    return eps_row(interval, config, step, keep, (weight,))


def _adams_row(interval: Interval, config: ScheduleConfig, step: int, m: int) -> Row:
    """The step m ≥ 1 after the improved Euler step, whose second eps (m predictions back) isn't part of the series."""
    keep, weight = _transfer(interval)
    series = [weight * c for c in _ADAMS_BASHFORTH[min(m, 3) - 1]]
    if m < len(series):
        series.insert(m, 0.0)
    return eps_row(interval, config, step, keep, tuple(series))


def _transfer(interval: Interval) -> tuple[float, float]:
    """(a, b) of the plain step z' = a·z + b·eps: Liu et al. 2022, Eq. 11."""
    keep = interval.end.alpha / interval.start.alpha
    return keep, interval.end.sigma - keep * interval.start.sigma


def eps_row(interval: Interval, config: ScheduleConfig, step: int, keep: float, predictions: tuple[float, ...]) -> Row:
    """A row that stores eps."""
    level = interval.start
    out, z = eps_form(config.prediction, level)
    x0 = (-level.sigma / level.alpha, 1.0 / level.alpha)
    return Row(interval.t, level.alpha, level.sigma, out, z, keep, predictions, step, *x0)
