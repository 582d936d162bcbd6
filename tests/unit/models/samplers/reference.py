"""Plain loops written from the papers, in float64 numpy, that know nothing of tables; and a loop that runs a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.samplers import Plan
from models.samplers.steps import Interval
from models.schedule import Array, NoiseLevel, Prediction

Noise = Sequence[Array]


def network(z: Array, t: float) -> Array:
    """A smooth stand-in for the UNet, bounded as its outputs are."""
    return np.tanh(0.7 * z + 0.3 * np.sin(3 * z) + t / 2000) + 0.1 * np.cos(z * t / 300)


def run_table(plan: Plan, z: Array, noise: Noise) -> Array:
    """The one update of every sampler."""
    stored: list[Array] = []
    for i, row in enumerate(plan.rows):
        assert len(stored) >= plan.history[i] >= len(row.predictions) - 1
        out = network(z, row.t)
        stored = [row.out * out + row.z * z, *stored[: plan.history[i]]]
        z = row.keep * z + sum(c * p for c, p in zip(row.predictions, stored, strict=False)) + row.raw * out
        z = z + row.noise * noise[i]
    return z


def split(prediction: Prediction, z: Array, t: float, level: NoiseLevel) -> tuple[Array, Array]:
    """(x0, eps) of the network's output, of any kind of prediction."""
    a, s, out = level.alpha, level.sigma, network(z, t)
    if prediction == "eps":
        return (z - s * out) / a, out
    if prediction == "v":
        return a * z - s * out, s * z + a * out
    return out, (z - a * out) / s


def ddim(intervals: Sequence[Interval], prediction: Prediction, z: Array, noise: Noise, eta: float) -> Array:
    """Song et al. 2021, Eq. 12, with σ of Eq. 16."""
    for i, n in zip(intervals, noise, strict=False):
        x0, eps = split(prediction, z, i.t, i.start)
        bar, bar_next = i.start.alpha**2, i.end.alpha**2
        sigma = eta * np.sqrt((1 - bar_next) / (1 - bar)) * np.sqrt(1 - bar / bar_next)
        z = np.sqrt(bar_next) * x0 + np.sqrt(max(1 - bar_next - sigma**2, 0)) * eps + sigma * n
    return z


def ddpm(intervals: Sequence[Interval], prediction: Prediction, z: Array, noise: Noise) -> Array:
    """Ho et al. 2020, Eq. 7, of the chain that visits these timesteps only."""
    for i, n in zip(intervals, noise, strict=False):
        x0, _ = split(prediction, z, i.t, i.start)
        bar, bar_next = i.start.alpha**2, i.end.alpha**2
        beta = 1 - bar / bar_next
        mean = np.sqrt(bar_next) * beta / (1 - bar) * x0 + np.sqrt(1 - beta) * (1 - bar_next) / (1 - bar) * z
        z = mean + np.sqrt((1 - bar_next) / (1 - bar) * beta) * n
    return z


def euler(intervals: Sequence[Interval], prediction: Prediction, z: Array) -> Array:
    """Karras et al. 2022, Algorithm 1, on x = z / α at noise σ / α."""
    x = z / intervals[0].start.alpha
    for i in intervals:
        sigma, sigma_next = i.start.sigma / i.start.alpha, i.end.sigma / i.end.alpha
        denoised, _ = split(prediction, x * i.start.alpha, i.t, i.start)
        x = x + (sigma_next - sigma) * (x - denoised) / sigma
    return x  # α is 1 at the end


def plms(intervals: Sequence[Interval], prediction: Prediction, z: Array) -> Array:
    """Liu et al. 2022, Algorithm 2; its first step as in the original code, a plain one if there is no other."""
    old: list[Array] = []
    for k, i in enumerate(intervals):
        _, eps = split(prediction, z, i.t, i.start)
        if len(intervals) == 1:
            combined = eps
        elif not old:
            after = intervals[k + 1]
            _, eps_after = split(prediction, _transfer(i, z, eps), after.t, after.start)
            combined = (eps + eps_after) / 2
        elif len(old) == 1:
            combined = (3 * eps - old[-1]) / 2
        elif len(old) == 2:
            combined = (23 * eps - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            combined = (55 * eps - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        z, old = _transfer(i, z, combined), [*old[-2:], eps]
    return z


def _transfer(i: Interval, z: Array, eps: Array) -> Array:
    x0 = (z - i.start.sigma * eps) / i.start.alpha
    return i.end.alpha * x0 + i.end.sigma * eps


def dpmpp_2m(intervals: Sequence[Interval], prediction: Prediction, z: Array) -> Array:
    """Lu et al. 2022 (DPM-Solver++), Algorithm 2; the first and the last step are of first order."""
    before: Array | None = None
    for k, i in enumerate(intervals):
        x0, _ = split(prediction, z, i.t, i.start)
        h = i.end.log_snr - i.start.log_snr
        d = x0
        if before is not None and k < len(intervals) - 1:
            r = (i.start.log_snr - intervals[k - 1].start.log_snr) / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        z, before = i.end.sigma / i.start.sigma * z - i.end.alpha * np.expm1(-h) * d, x0
    return z


def unipc(intervals: Sequence[Interval], prediction: Prediction, z: Array) -> Array:
    """Zhao et al. 2023, Algorithm 1: predict, ask the network at the end of the step, correct, go on from there."""
    outputs: list[Array] = []
    corrected, orders = z, [min(2, k + 1, len(intervals) - k) for k in range(len(intervals))]
    for k, i in enumerate(intervals):
        outputs.append(split(prediction, z, i.t, i.start)[0])
        if k > 0:
            corrected = _unified(intervals, k - 1, orders[k - 1], corrected, outputs, corrector=True)
        z = _unified(intervals, k, orders[k], corrected, outputs, corrector=False)
    return z


def _unified(
    intervals: Sequence[Interval], k: int, order: int, z: Array, outputs: list[Array], corrector: bool
) -> Array:
    """Eq. 3 of the paper in its data-prediction form, coefficients by solving R(h) a = b of Eq. 5."""
    i, m0 = intervals[k], outputs[k]
    hh = -(i.end.log_snr - i.start.log_snr)
    B = np.expm1(hh)
    rs = [(intervals[k - j].start.log_snr - i.start.log_snr) / -hh for j in range(1, order)]
    differences = [(outputs[k - j] - m0) / r for j, r in enumerate(rs, 1)]
    if corrector:
        rs, differences = [*rs, 1.0], [*differences, outputs[k + 1] - m0]
    # Order-1 correctors and order-2 predictors have one unknown, for which the paper takes 1/2.
    rhos = np.array([0.5]) if len(rs) == 1 else np.linalg.solve(np.vander(rs, increasing=True).T, _b(hh, len(rs)))
    change = sum((rho * d for rho, d in zip(rhos, differences, strict=True)), np.zeros_like(z))
    return np.asarray(i.end.sigma / i.start.sigma * z - i.end.alpha * B * (m0 + change))


def _b(hh: float, size: int) -> Array:
    phi, factorial, b = np.expm1(hh) / hh - 1, 1.0, []
    for n in range(1, size + 1):
        b.append(phi * factorial / np.expm1(hh))
        factorial *= n + 1
        phi = phi / hh - 1 / factorial
    return np.array(b)
