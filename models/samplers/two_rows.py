"""Samplers that ask the network twice a step: heun, dpm2, dpm2_a, dpmpp_2s_a and dpmpp_sde of k-diffusion.

The first row goes from z to the latent z_m at which the network is asked again. The second row starts there; what it
needs of the first one is stored: the network's output, or z itself where z_m has fresh noise in it or isn't read. A
step to no noise is a single row, and so is one from (nearly) no signal, where σ → ∞ magnifies what the two answers
differ by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from models.samplers.levels import SigmaTable, level_of, without_signal
from models.samplers.single_step import ancestral, euler, transfer, x0_row
from models.samplers.steps import Interval
from models.samplers.table import Row, x0_form
from models.schedule import NoiseLevel, NoiseSchedule


@dataclass(frozen=True, slots=True)
class Second:
    """The second row's z' = keep·z_m + x0·(its x0) + stored·z + noise·n; `follows` as in `Row`."""

    keep: float
    x0: float
    stored: float
    noise: float = 0.0
    follows: float = 0.0


_Middle = Callable[[Interval], NoiseLevel]  # where the network is asked again
_Step = Callable[[Interval, NoiseLevel], Second]


def heun(intervals: Sequence[Interval], schedule: NoiseSchedule) -> tuple[Row, ...]:
    """x' = x + (σ' − σ)·(d + d')/2, d' asked for at the end of Euler's step: Karras et al. 2022, Algorithm 1."""
    return _rows(intervals, schedule, lambda interval: interval.end, _heun)


def dpm2(intervals: Sequence[Interval], schedule: NoiseSchedule) -> tuple[Row, ...]:
    """x' = x + (σ' − σ)·d_m, d_m asked for at the geometric mean of σ and σ': Lu et al. 2022, DPM-Solver-2."""
    return _rows(intervals, schedule, lambda interval: _mean(interval.start.ratio, interval.end.ratio), _midpoint)


def dpm2_a(intervals: Sequence[Interval], schedule: NoiseSchedule) -> tuple[Row, ...]:
    """Like dpm2, but down to σ_down, and noise up to σ' (ancestral)."""
    return _rows(intervals, schedule, _mean_of_down, _ancestral_midpoint, ancestral_single=True)


def dpmpp_2s_a(intervals: Sequence[Interval], schedule: NoiseSchedule) -> tuple[Row, ...]:
    """Lu et al. 2022 (DPM-Solver++), Algorithm 1 with r = 1/2 down to σ_down, and noise up to σ' (ancestral)."""
    return _rows(intervals, schedule, _mean_of_down, _second_x0, ancestral_single=True)


def dpmpp_sde(intervals: Sequence[Interval], schedule: NoiseSchedule) -> tuple[Row, ...]:
    """k-diffusion's DPM-Solver++ (stochastic), r = 1/2, η = 1: noise on the way to the middle, and again to the end.

    Both are of one Brownian path over σ: the correlation of its increments σ → σ_m and σ → σ' is √((σ − σ_m)/(σ − σ')).
    """
    return _rows(
        intervals,
        schedule,
        lambda interval: _mean(interval.start.ratio, interval.end.ratio),
        _second_of_path,
        ancestral_single=True,
        first_eta=1.0,
    )


def _rows(
    intervals: Sequence[Interval],
    schedule: NoiseSchedule,
    middle: _Middle,
    step: _Step,
    ancestral_single: bool = False,
    first_eta: float = 0.0,
) -> tuple[Row, ...]:
    rows: list[Row] = []
    table, single = SigmaTable.of(schedule), ancestral if ancestral_single else euler
    for i, interval in enumerate(intervals):
        if interval.end.sigma == 0.0 or without_signal(interval.start):
            rows.append(replace(single([interval], schedule.config)[0], step=i + 1))
            continue
        level = middle(interval)
        # heun asks at the next step's own timestep, which its spacing may have rounded. The last step of a span ends
        # in noise, and the timestep of that is another run's.
        asks_next = level == interval.end and i + 1 < len(intervals)
        t = intervals[i + 1].t if asks_next else table.t(level.ratio)
        rows += _pair(interval, level, t, schedule, i + 1, step(interval, level), first_eta)
    return tuple(rows)


def _pair(
    interval: Interval, middle: NoiseLevel, t: float, schedule: NoiseSchedule, step: int, second: Second, eta: float
) -> tuple[Row, Row]:
    start = interval.start
    keep, weight, spread = transfer(start, middle, eta)
    out, z = x0_form(schedule.config.prediction, start)
    to_middle, by_output = keep + weight * z, weight * out  # z_m = to_middle·z + by_output·network
    if spread or not second.keep:
        last = (second.keep, second.x0, second.stored)
        first = Row(
            interval.t, start.alpha, start.sigma, 0.0, 1.0, to_middle, (0.0,), step, noise=spread, raw=by_output,
        )  # fmt: skip
    else:
        # z and z_m are nearly the same, with large weights that nearly cancel: z is taken from z_m and the output.
        per_z = second.stored / to_middle
        last = (second.keep + per_z, second.x0, -per_z * by_output)
        first = Row(
            interval.t, start.alpha, start.sigma, 1.0, 0.0, to_middle, (by_output,), step, preview_p=out, preview_z=z,
        )  # fmt: skip
    ending = x0_row(Interval(t, middle, interval.end), schedule.config, step, last[0], last[1:])
    return first, replace(ending, noise=second.noise, follows=second.follows)


def _heun(interval: Interval, _middle: NoiseLevel) -> Second:
    start, end = interval.start, interval.end
    half = (end.ratio - start.ratio) / (2 * end.ratio)
    return Second(0.5 + half, -end.alpha * half, end.alpha / (2 * start.alpha))


def _midpoint(interval: Interval, middle: NoiseLevel) -> Second:
    return _through(interval, middle, interval.end.ratio)


def _ancestral_midpoint(interval: Interval, middle: NoiseLevel) -> Second:
    second = _through(interval, middle, _sigma_down(interval))
    return replace(second, noise=transfer(interval.start, interval.end, 1.0)[2])


def _through(interval: Interval, middle: NoiseLevel, down: float) -> Second:
    """x' = x + (down − σ)·(x_m − x0)/σ_m."""
    start, end = interval.start, interval.end
    slope = end.alpha * (down - start.ratio) / middle.ratio
    return Second(slope / middle.alpha, -slope, end.alpha / start.alpha)


def _second_x0(interval: Interval, _middle: NoiseLevel) -> Second:
    """The ancestral step with the second x0 alone, which is what r = 1/2 comes to."""
    keep, weight, spread = transfer(interval.start, interval.end, 1.0)
    return Second(0.0, weight, keep, spread)


def _second_of_path(interval: Interval, middle: NoiseLevel) -> Second:
    start, end = interval.start.ratio, interval.end.ratio
    shared = (start - middle.ratio) / (start - end) if start > end else 0.0  # a repeated timestep is no step
    return replace(_second_x0(interval, middle), follows=math.sqrt(shared))


def _mean_of_down(interval: Interval) -> NoiseLevel:
    return _mean(interval.start.ratio, _sigma_down(interval))


def _mean(a: float, b: float) -> NoiseLevel:
    return level_of(math.sqrt(a * b))


def _sigma_down(interval: Interval) -> float:
    """σ_down of an ancestral step: σ'² = σ_down² + σ_up²."""
    return interval.end.ratio**2 / interval.start.ratio
