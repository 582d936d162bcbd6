"""Noise levels by σ: the sets of steps that k-diffusion and the web UIs name, and diffusers' own Karras ones.

σ here is that of x = z/α, noise by signal; a level between two training timesteps has the fractional timestep at which
log σ, interpolated linearly, is its own (as in k-diffusion).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from models.samplers.steps import Interval, chain, check_steps, euler_intervals
from models.schedule import Array, NoiseLevel, NoiseSchedule

FLOOR = 2.0**-24  # ᾱ that stands for 0, where σ must be finite
RHO = 7.0  # Karras et al. 2022, Eq. 5


@dataclass(frozen=True, slots=True)
class SigmaTable:
    """log σ by training timestep, rising; from ᾱ in float32, as k-diffusion's denoisers keep it: few steps that ask
    twice magnify the difference, 1e-6, fifty times."""

    log_sigmas: Array

    @classmethod
    def of(cls, schedule: NoiseSchedule) -> SigmaTable:
        bar = np.maximum(schedule.alphas_cumprod, FLOOR).astype(np.float32)
        return cls(np.log(np.sqrt((1 - bar) / bar)).astype(np.float64))

    def sigma(self, t: Array) -> Array:
        return np.exp(np.interp(t, np.arange(len(self.log_sigmas)), self.log_sigmas))

    def t(self, sigma: float) -> float:
        """Return the timestep of σ; beyond the table its first or last."""
        return float(np.interp(math.log(sigma), self.log_sigmas, np.arange(len(self.log_sigmas))))

    @property
    def span(self) -> tuple[float, float]:
        """The largest and the smallest σ."""
        return math.exp(self.log_sigmas[-1]), math.exp(self.log_sigmas[0])


def without_signal(start: NoiseLevel) -> bool:
    """Tell whether a level stands for no signal at all: the network's eps there says nothing of x0."""
    return start.alpha**2 < 2 * FLOOR


def level_of(sigma: float) -> NoiseLevel:
    """Return the variance-preserving level of σ."""
    alpha = 1.0 / math.hypot(1.0, sigma)
    return NoiseLevel(alpha, sigma * alpha)


def karras(high: float, low: float, steps: int) -> Array:
    """Karras et al. 2022, Eq. 5: equal steps of σ^(1/ρ)."""
    return np.asarray(np.linspace(high ** (1 / RHO), low ** (1 / RHO), steps) ** RHO, np.float64)


def exponential(high: float, low: float, steps: int) -> Array:
    """Equal steps of log σ."""
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def _normal(table: SigmaTable, steps: int) -> Array:
    """Equal steps of t, both ends among them."""
    return table.sigma(np.linspace(len(table.log_sigmas) - 1, 0, steps))


def _sgm_uniform(table: SigmaTable, steps: int) -> Array:
    """Equal steps of t without the last, cleanest one: of Stability's generative-models."""
    return table.sigma(np.linspace(len(table.log_sigmas) - 1, 0, steps + 1)[:-1])


SIGMAS: Mapping[str, Callable[[SigmaTable, int], Array]] = {
    "normal": _normal,
    "karras": lambda table, steps: karras(*table.span, steps),
    "exponential": lambda table, steps: exponential(*table.span, steps),
    "sgm_uniform": _sgm_uniform,
}
_DIFFUSERS: Mapping[str, Callable[[float, float, int], Array]] = {
    "diffusers_karras": karras,
    "diffusers_exponential": exponential,
}
DIFFUSERS = tuple(_DIFFUSERS)


def sigma_intervals(name: str, schedule: NoiseSchedule, steps: int) -> list[Interval]:
    """Steps over one of `SIGMAS`, the last one to no noise."""
    check_steps(steps, schedule.config.timesteps)
    table = SigmaTable.of(schedule)
    sigmas = [float(sigma) for sigma in SIGMAS[name](table, steps)]
    return _to_no_noise([table.t(sigma) for sigma in sigmas], sigmas)


def diffusers_intervals(name: str, schedule: NoiseSchedule, steps: int, solver: bool) -> list[Interval]:
    """Steps as diffusers' schedulers take them with use_karras_sigmas or use_exponential_sigmas.

    Those of its multistep solvers span the whole table and have whole timesteps: Karras' are rounded, exponential ones
    cut. All others span the σ of the timesteps that the checkpoint's spacing has, and have fractional ones.
    """
    check_steps(steps, schedule.config.timesteps)
    table = SigmaTable.of(schedule)
    high, low = table.span if solver else _own_span(schedule, steps)
    sigmas = [float(sigma) for sigma in _DIFFUSERS[name](high, low, steps)]
    ts = [table.t(sigma) for sigma in sigmas]
    if solver:
        ts = [float(round(t)) if name == "diffusers_karras" else _cut(t) for t in ts]
    return _to_no_noise(ts, sigmas)


def _cut(t: float) -> float:
    """Return the timestep below t, and below a whole t, too: diffusers' σ_max falls short of 999 by its last bit."""
    return max(0.0, math.ceil(t - 1e-6) - 1.0)


def _own_span(schedule: NoiseSchedule, steps: int) -> tuple[float, float]:
    own = euler_intervals(schedule, steps, FLOOR)
    return own[0].start.ratio, own[-1].start.ratio


def _to_no_noise(ts: list[float], sigmas: list[float]) -> list[Interval]:
    return chain(ts, [level_of(sigma) for sigma in sigmas], NoiseLevel(1.0, 0.0))
