"""Samplers whose step reads one prediction: DDIM, DDPM (ancestral) and Euler, all in terms of x0.

In that form nothing is divided by √ᾱ, so that a first step from zero signal is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from models.samplers.steps import Interval
from models.samplers.table import Row, eps_form, x0_form
from models.schedule import NoiseLevel, ScheduleConfig


def ddim(intervals: Sequence[Interval], config: ScheduleConfig, eta: float) -> tuple[Row, ...]:
    """z' = α'·x0 + √(σ'² − s²)·eps + s·n with eps = (z − α·x0)/σ: Song et al. 2021 (DDIM), Eq. 12 and 16.

    Where the checkpoint clamps x0, eps is still the network's, as in diffusers.
    """
    if config.clip is not None:
        return tuple(_clamped_ddim_row(interval, config, eta, step) for step, interval in enumerate(intervals, 1))
    return tuple(_ddim_row(interval, config, eta, step) for step, interval in enumerate(intervals, 1))


def ddpm(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """z' drawn from the posterior q(z' | z, x0) with the variance β̃: Ho et al. 2020, Eq. 6 and 7."""
    return tuple(_ddpm_row(interval, config, step) for step, interval in enumerate(intervals, 1))


def euler(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """z'/α' = z/α + (σ'/α' − σ/α)·eps: Karras et al. 2022, Algorithm 1 without churn, in variance-preserving
    coordinates, where it is DDIM with eta 0."""
    return tuple(_ddim_row(interval, config, 0.0, step) for step, interval in enumerate(intervals, 1))


def ancestral(intervals: Sequence[Interval], config: ScheduleConfig) -> tuple[Row, ...]:
    """Euler's step down to σ_down and noise up to σ' (k-diffusion's `euler_a`), σ'² = σ_down² + σ_up²; in
    variance-preserving coordinates it is DDIM with eta 1."""
    return tuple(_ddim_row(interval, config, 1.0, step) for step, interval in enumerate(intervals, 1))


def transfer(start: NoiseLevel, end: NoiseLevel, eta: float) -> tuple[float, float, float]:
    """(a, b, s) of z' = a·z + b·x0 + s·n from one level to another, with eta's share of ancestral noise."""
    spread = eta * _posterior_std(start, end)
    keep = math.sqrt(max(end.sigma**2 - spread**2, 0.0)) / start.sigma
    return keep, end.alpha - keep * start.alpha, spread


def x0_row(interval: Interval, config: ScheduleConfig, step: int, keep: float, predictions: tuple[float, ...]) -> Row:
    """A row that stores x0."""
    out, z = x0_form(config.prediction, interval.start)
    level = interval.start
    return Row(interval.t, level.alpha, level.sigma, out, z, keep, predictions, step, clamp=config.clip)


def _ddim_row(interval: Interval, config: ScheduleConfig, eta: float, step: int) -> Row:
    keep, weight, spread = transfer(interval.start, interval.end, eta)
    return replace(x0_row(interval, config, step, keep, (weight,)), noise=spread)


def _clamped_ddim_row(interval: Interval, config: ScheduleConfig, eta: float, step: int) -> Row:
    start, end = interval.start, interval.end
    spread = eta * _posterior_std(start, end)
    direction = math.sqrt(max(end.sigma**2 - spread**2, 0.0))
    out, z = eps_form(config.prediction, start)
    row = x0_row(interval, config, step, direction * z, (end.alpha,))
    return replace(row, raw=direction * out, noise=spread)


def _ddpm_row(interval: Interval, config: ScheduleConfig, step: int) -> Row:
    start, end = interval.start, interval.end
    alpha = (start.alpha / end.alpha) ** 2  # of the whole step, 1 − β
    mean_z = math.sqrt(alpha) * end.sigma**2 / start.sigma**2
    mean_x0 = end.alpha * (1.0 - alpha) / start.sigma**2
    return replace(x0_row(interval, config, step, mean_z, (mean_x0,)), noise=_posterior_std(start, end))


def _posterior_std(start: NoiseLevel, end: NoiseLevel) -> float:
    return end.sigma / start.sigma * math.sqrt(max(1.0 - (start.alpha / end.alpha) ** 2, 0.0))
