"""Which timesteps a sampler visits: every spacing's set, and the noise levels that each step goes between.

`steps` between 1 and the number of training timesteps always gives a set inside the table, and exactly as many steps
as were asked for, except "uniform" where the original latent-diffusion code itself takes more (30 → 31).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from core.errors import InvalidRequest
from models.schedule import NoiseLevel, NoiseSchedule


@dataclass(frozen=True, slots=True)
class Interval:
    """One step of a sampler: the network is asked at t, z goes from level `start` to level `end`."""

    t: float
    start: NoiseLevel
    end: NoiseLevel


def timesteps(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Return the step set of ddim, ddpm and plms, from the noisiest down."""
    T, spacing = schedule.config.timesteps, schedule.config.spacing
    check_steps(steps, T)
    if spacing == "uniform":
        return _uniform(T, steps)
    if spacing == "quad":
        return [int(root**2) + 1 for root in np.linspace(0, np.sqrt(T * 0.8), steps)][::-1]
    if spacing == "trailing":
        return _trailing(T, steps)
    if spacing == "linspace":
        return [int(t) for t in np.round(np.linspace(0, T - 1, steps))][::-1]
    return _leading(range(steps), T // steps, schedule)


def denoising_intervals(schedule: NoiseSchedule, steps: int) -> list[Interval]:
    """Steps of ddim and plms: from each t to the next, the last to ᾱ = 1 or ᾱ_0, as the checkpoint has it.

    On "trailing" steps diffusers goes to t − T // steps instead, short of the next t where `steps` doesn't divide T.
    That is followed while it is short by at most 2 % of T in all, and not beyond, where noise stays in the picture
    (measured on emoji-upscale at 150 steps, 10 % short: 33.4 dB instead of 35.1).
    """
    ts, final = timesteps(schedule, steps), NoiseLevel.of(schedule.final_alpha_cumprod)
    stride, short = divmod(schedule.config.timesteps, steps)
    if schedule.config.spacing != "trailing" or short * 50 > schedule.config.timesteps:
        return _between(schedule, ts, final)
    ends = [schedule.level(t - stride) if t >= stride else final for t in ts]
    return [Interval(t, schedule.level(t), end) for t, end in zip(ts, ends, strict=True)]


def ancestral_intervals(schedule: NoiseSchedule, steps: int) -> list[Interval]:
    """Steps of ddpm: from each t to the next, the last to no noise."""
    return _between(schedule, timesteps(schedule, steps), NoiseLevel(1.0, 0.0))


def euler_intervals(schedule: NoiseSchedule, steps: int, floor: float) -> list[Interval]:
    """Steps of euler: as ancestral, but "linspace" has fractional t, and ᾱ starts from at least `floor`."""
    T = schedule.config.timesteps
    check_steps(steps, T)
    if schedule.config.spacing == "linspace":
        ts: Sequence[float] = [float(t) for t in np.linspace(0, T - 1, steps)][::-1]
    else:
        ts = timesteps(schedule, steps)
    return _between(schedule, ts, NoiseLevel(1.0, 0.0), floor)


def solver_intervals(schedule: NoiseSchedule, steps: int) -> list[Interval]:
    """Steps of dpmpp_2m and unipc, which end at no noise: "leading" and "linspace" are sets of steps + 1 timesteps
    without the cleanest (as in diffusers), for the step from there to 0 would be wasted on a second-order solver."""
    T, spacing = schedule.config.timesteps, schedule.config.spacing
    check_steps(steps, T)
    if spacing == "leading":
        ts = _leading(range(1, steps + 1), max(1, T // (steps + 1)), schedule)
    elif spacing == "linspace":
        ts = [int(t) for t in np.round(np.linspace(0, T - 1, steps + 1))][:0:-1]
    else:
        ts = timesteps(schedule, steps)
    return _between(schedule, ts, NoiseLevel(1.0, 0.0))


def given_intervals(schedule: NoiseSchedule, ts: Sequence[int], final: NoiseLevel, floor: float) -> list[Interval]:
    """Steps from each given timestep to the next, the last to `final`; ᾱ starts from at least `floor`.

    Raises:
        InvalidRequest: they don't fall, or leave the table.
    """
    T = schedule.config.timesteps
    falling = all(later < t for t, later in pairwise(ts))
    if not ts or not falling or ts[0] >= T or ts[-1] < 0:
        detail = f"timesteps are {list(ts)}; they must fall, from at most {T - 1} to at least 0"
        raise InvalidRequest(detail, field="timesteps", value=list(ts), bound=[T - 1, 0])
    return _between(schedule, ts, final, floor)


def check_steps(steps: int, most: int) -> None:
    """Check the number of steps.

    Raises:
        InvalidRequest: it isn't in 1 … most.
    """
    if not 1 <= steps <= most:
        raise InvalidRequest(
            f"steps is {steps}; this model takes 1 to {most}", field="steps", value=steps, bound=[1, most]
        )


def _uniform(T: int, steps: int) -> list[int]:
    original = range(1, T + 1, T // steps)
    if original[-1] < T:
        return list(original)[::-1]
    # The original reads index T of a table of T here and fails: exactly the asked number is spread instead.
    offset = int(steps < T)
    return [i * T // steps + offset for i in range(steps)][::-1]


def _leading(indices: range, stride: int, schedule: NoiseSchedule) -> list[int]:
    # An offset that would leave the table (1,000 steps of 1,000, offset 1) is taken as far as it fits.
    largest = schedule.config.timesteps - 1 - indices[-1] * stride
    return [i * stride + min(schedule.config.steps_offset, largest) for i in indices][::-1]


def _trailing(T: int, steps: int) -> list[int]:
    # numpy's arange may have one element more than `steps` by rounding.
    return [int(t) - 1 for t in np.round(np.arange(T, 0, -T / steps))[:steps]]


def _between(schedule: NoiseSchedule, ts: Sequence[float], final: NoiseLevel, floor: float = 0.0) -> list[Interval]:
    levels = [schedule.level(t) for t in ts]
    levels = [level if level.alpha**2 >= floor else NoiseLevel.of(floor) for level in levels]
    return chain(ts, levels, final)


def chain(ts: Sequence[float], levels: Sequence[NoiseLevel], final: NoiseLevel) -> list[Interval]:
    """Make the steps from each level to the next, the last one to `final`."""
    ends = [*levels[1:], final]
    return [Interval(t, start, end) for t, start, end in zip(ts, levels, ends, strict=True)]
