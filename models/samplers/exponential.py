"""Exponential integrators over stored x0: DPM-Solver++(2M), its stochastic forms, and UniPC-2.

Both solve z' = (σ'/σ)·z + σ'·∫ e^λ x0(λ) dλ over h = λ' − λ, the growth of the log signal-to-noise ratio. `gain` is
α'·(1 − e^−h) = α' − α·σ'/σ, which stays finite from zero signal (h = ∞) and to no noise (h = ∞).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from models.samplers.single_step import x0_row
from models.samplers.steps import Interval
from models.samplers.table import Row
from models.schedule import ScheduleConfig


def dpmpp_2m(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Lu et al. 2022 (DPM-Solver++), Algorithm 2; first order in the first step and in that to no noise."""
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


def dpmpp_2m_sde(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """The stochastic DPM-Solver++(2M), midpoint, η = 1: Lu et al. 2022 (DPM-Solver++), Eq. 18, and k-diffusion's code.

    z' = (σ'/σ)·e^−h·z + α'·(1 − e^−2h)·(x0 + (x0 − x0₋₁)·h/2h₋₁) + σ'·√(1 − e^−2h)·n; first order to no noise.
    """
    return _stochastic(intervals, config, _midpoint)


def dpmpp_3m_sde(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Third order of the same, as k-diffusion has it: φ_2 and φ_3 of 2h weigh the first and second differences."""
    return _stochastic(intervals, config, lambda intervals, i: _differences(intervals, i, 0.0))


def dpmpp_3m_sde_diffusers(intervals: Sequence[Interval], config: ScheduleConfig, steps: int) -> tuple[Row, ...]:
    """Third order as diffusers has it, for folders that were made with it: its second difference weighs 1 less than
    φ_3 says, its second step is the midpoint's, and so is, below 15 `steps` of the whole run, the last but one."""

    def weights(intervals: Sequence[Interval], i: int) -> list[float]:
        last_but_one = any(_to_no_noise(interval) for interval in intervals[i + 1 : i + 2])
        early = i < 2 or (steps < 15 and last_but_one)
        return _midpoint(intervals, i) if early else _differences(intervals, i, 1.0)

    return _stochastic(intervals, config, weights)


def _stochastic(
    intervals: Sequence[Interval],
    config: ScheduleConfig,
    weights: Callable[[Sequence[Interval], int], list[float]],
) -> tuple[Row, ...]:
    rows = []
    for i, interval in enumerate(intervals):
        decay = math.exp(-_growth(interval))
        row = x0_row(interval, config, i + 1, _keep(interval) * decay, tuple(weights(intervals, i)))
        rows.append(replace(row, noise=interval.end.sigma * math.sqrt(-math.expm1(-2 * _growth(interval)))))
    return tuple(rows)


def _midpoint(intervals: Sequence[Interval], i: int) -> list[float]:
    gain = intervals[i].end.alpha * -math.expm1(-2 * _growth(intervals[i]))
    w = _ratio(intervals, i) / 2
    return [gain * (1 + w), -gain * w] if w else [gain]


def _differences(intervals: Sequence[Interval], i: int, less: float) -> list[float]:
    """Weights of (p_0, p_1, p_2) by divided differences of x0 over λ, as far back as steps have a length."""
    alpha, h = intervals[i].end.alpha, _growth(intervals[i])
    gain = alpha * -math.expm1(-2 * h)
    a = _ratio(intervals, i)  # 1/r_0
    if not a:
        return [gain]
    phi2 = 1.0 + math.expm1(-2 * h) / (2 * h)
    before = _growth(intervals[i - 2]) if i > 1 else 0.0
    b = h / before if before > 0.0 else 0.0  # 1/r_1
    if not b:
        return [gain + alpha * phi2 * a, -alpha * phi2 * a]
    # d1 = d10 + (d10 − d11)·r_0/(r_0 + r_1), d2 = (d10 − d11)/(r_0 + r_1); d10 = a·(p_0 − p_1), d11 = b·(p_1 − p_2)
    phi3, share, scale = phi2 / (2 * h) - 0.5 + less, b / (a + b), a * b / (a + b)
    d10, d11 = phi2 * (1 + share) - phi3 * scale, phi3 * scale - phi2 * share
    return [gain + alpha * d10 * a, alpha * (d11 * b - d10 * a), -alpha * d11 * b]


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
    """h_i / h_{i−1}; 0, which is first order, where there is none, and in the step to no noise."""
    if i == 0 or _to_no_noise(intervals[i]):
        return 0.0
    h, before = _growth(intervals[i]), _growth(intervals[i - 1])
    return h / before if before > 0.0 else 0.0


def _to_no_noise(interval: Interval) -> bool:
    """Tell the last step of a whole way; one that another model goes on with ends at a noise level."""
    return interval.end.sigma == 0.0


def _growth(interval: Interval) -> float:
    return interval.end.log_snr - interval.start.log_snr


def _keep(interval: Interval) -> float:
    return interval.end.sigma / interval.start.sigma


def _gain(interval: Interval) -> float:
    return interval.end.alpha - interval.start.alpha * _keep(interval)


def _padded(weights: tuple[float, ...]) -> tuple[float, float, float]:
    return (*weights, 0.0, 0.0)[:3]  # type: ignore[return-value]
