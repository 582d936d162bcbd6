"""Samplers of distilled networks, whose every call jumps to x0: LCM (Luo et al. 2023) and TCD (Zheng et al. 2024).

Both take their timesteps from the 50 that the teacher was distilled at, 20 apart where it has 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.samplers.levels import SigmaTable
from models.samplers.single_step import x0_row
from models.samplers.steps import Interval, chain, check_steps
from models.samplers.table import Row
from models.schedule import NoiseLevel, NoiseSchedule, ScheduleConfig

ORIGINAL_STEPS = 50
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0  # of the boundary condition: Luo et al. 2023, Eq. 9 and its code


def consistency_intervals(schedule: NoiseSchedule, steps: int) -> list[Interval]:
    """Return `steps` of the original timesteps, as evenly spread as whole indices allow, the last step to no noise.

    Raises:
        InvalidRequest: more steps than there are original ones.
    """
    T = schedule.config.timesteps
    original = min(ORIGINAL_STEPS, T)
    check_steps(steps, original)
    kept = np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)
    ts = [float((original - i) * (T // original) - 1) for i in kept]
    return chain(ts, [schedule.level(t) for t in ts], NoiseLevel(1.0, 0.0))


def lcm(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """z' = α'·(c_out·x0 + c_skip·z) + σ'·n: Luo et al. 2023, Algorithm 2; no noise after the last step."""
    return tuple(_lcm_row(interval, config, step) for step, interval in enumerate(intervals, 1))


def tcd(intervals: Sequence[Interval], schedule: NoiseSchedule, gamma: float) -> tuple[Row, ...]:
    """z_s = α_s·x0 + σ_s·eps at s = ⌊(1 − γ)·t'⌋, then noise up to t': Zheng et al. 2024, Algorithm 2.

    γ in [0, 1] is the share of noise. The last step ends at timestep 0, as in the authors' code; that of a span where
    the next one would begin.
    """
    final = intervals[-1].end
    last = 0 if final.sigma == 0.0 else round(SigmaTable.of(schedule).t(final.ratio))
    ends = [int(interval.t) for interval in intervals[1:]] + [last]
    return tuple(
        _tcd_row(replace(interval, end=schedule.level(end)), schedule, int((1 - gamma) * end), step)
        for step, (interval, end) in enumerate(zip(intervals, ends, strict=True), 1)
    )


def _lcm_row(interval: Interval, config: ScheduleConfig, step: int) -> Row:
    scaled, end = interval.t * TIMESTEP_SCALING, interval.end
    spread = scaled * scaled + SIGMA_DATA**2
    c_skip, c_out = SIGMA_DATA**2 / spread, scaled / math.sqrt(spread)
    return replace(x0_row(interval, config, step, end.alpha * c_skip, (end.alpha * c_out,)), noise=end.sigma)


def _tcd_row(interval: Interval, schedule: NoiseSchedule, s: int, step: int) -> Row:
    start, between = interval.start, schedule.level(s)
    signal = interval.end.alpha / between.alpha
    keep = signal * between.sigma / start.sigma
    row = x0_row(interval, schedule.config, step, keep, (signal * between.alpha - keep * start.alpha,))
    return replace(row, noise=math.sqrt(max(1.0 - signal * signal, 0.0)))
