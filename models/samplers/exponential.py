"""Exponential integrators over stored x0: DPM-Solver++(2M) and UniPC-2.

Both solve z' = (σ'/σ)·z + σ'·∫ e^λ x0(λ) dλ over h = λ' − λ, the growth of the log signal-to-noise ratio. `gain` is
α'·(1 − e^−h) = α' − α·σ'/σ, which stays finite from zero signal (h = ∞) and to no noise (h = ∞).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.samplers.single_step import x0_row
from models.samplers.steps import Interval
from models.samplers.table import Row
from models.schedule import ScheduleConfig


def dpmpp_2m(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Lu et al. 2022 (DPM-Solver++), Algorithm 2; first order in the first step and in the last."""
    return tuple(
        x0_row(interval, config, i + 1, _keep(interval), _predictor(intervals, i))
        for i, interval in enumerate(intervals)
    )


def unipc(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Zhao et al. 2023 (UniPC), Algorithms 1 and 2, order 2 with B(h) = e^h − 1, in x0.

    The corrector of a step needs the prediction at its end, which is that of the next row: it is folded into it. The
    next row starts from the uncorrected latent, adds the correction and takes its own step.
    """
    return tuple(
        x0_row(interval, config, i + 1, _keep(interval), _corrected(intervals, i))
        for i, interval in enumerate(intervals)
    )


def _predictor(intervals: Sequence[Interval], i: int) -> tuple[float, ...]:
    """Weights of (p_0, p_1) in the step over interval i; UniP-2 and DPM-Solver++(2M) are the same."""
    gain, w = _gain(intervals[i]), _ratio(intervals, i) / 2
    return (gain * (1 + w), -gain * w) if w else (gain,)


def _corrected(intervals: Sequence[Interval], i: int) -> tuple[float, ...]:
    if i == 0:
        return _predictor(intervals, 0)
    step = _padded(_predictor(intervals, i))
    predicted = (0.0, *_padded(_predictor(intervals, i - 1)))
    corrected = _corrector(intervals, i - 1)
    keep = _keep(intervals[i])
    weights = [s + keep * (c - p) for s, c, p in zip(step, corrected, predicted, strict=False)]
    return tuple(weights) if weights[2] else tuple(weights[:2])


def _corrector(intervals: Sequence[Interval], i: int) -> tuple[float, float, float]:
    """Weights, in the corrected step over interval i, of x0 at its end, at its start, and one step before it."""
    gain, w = _gain(intervals[i]), _ratio(intervals, i)
    if not w:
        return gain / 2, gain / 2, 0.0
    b1, b2 = _moments(_growth(intervals[i]))
    end, before = b1 + (b2 - b1) * w / (1 + w), (b2 - b1) * w * w / (1 + w)
    return gain * end, gain * (1 - end - before), gain * before


def _moments(h: float) -> tuple[float, float]:
    """b_1, b_2 of UniPC's linear system R(h)·a = b over B(h): Zhao et al. 2023, Eq. 9 to 11."""
    phi1 = math.expm1(-h)
    phi2 = -phi1 / h - 1.0
    phi3 = -phi2 / h - 0.5
    return phi2 / phi1, 2.0 * phi3 / phi1


def _ratio(intervals: Sequence[Interval], i: int) -> float:
    """h_i / h_{i−1}; 0, which is first order, where there is none, and in the last step."""
    if i == 0 or i == len(intervals) - 1:
        return 0.0
    h, before = _growth(intervals[i]), _growth(intervals[i - 1])
    return h / before if before > 0.0 else 0.0


def _growth(interval: Interval) -> float:
    return interval.end.log_snr - interval.start.log_snr


def _keep(interval: Interval) -> float:
    return interval.end.sigma / interval.start.sigma


def _gain(interval: Interval) -> float:
    return interval.end.alpha - interval.start.alpha * _keep(interval)


def _padded(weights: tuple[float, ...]) -> tuple[float, float, float]:
    return (*weights, 0.0, 0.0)[:3]  # type: ignore[return-value]
