"""Compiles a sampler, by name, for a checkpoint's schedule into a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from core.errors import InvalidRequest
from models.samplers.exponential import dpmpp_2m, unipc
from models.samplers.plms import plms
from models.samplers.single_step import ddim, ddpm, euler
from models.samplers.steps import (
    Interval,
    ancestral_intervals,
    denoising_intervals,
    euler_intervals,
    solver_intervals,
)
from models.samplers.table import Plan, Row, history_of
from models.schedule import NoiseSchedule, ScheduleConfig

Span: TypeAlias = tuple[float, float]  # from 0, pure noise, to 1, the picture
WHOLE: Span = (0.0, 1.0)
EULER_FLOOR = 2.0**-24  # ᾱ that stands for 0, where Euler's σ/α must be finite

_Intervals = Callable[[NoiseSchedule, int], Sequence[Interval]]
_Rows = Callable[[Sequence[Interval], ScheduleConfig], tuple[Row, ...]]


def _euler_intervals(schedule: NoiseSchedule, steps: int) -> Sequence[Interval]:
    return euler_intervals(schedule, steps, EULER_FLOOR)


_COMPILERS: Mapping[str, tuple[_Intervals, _Rows]] = {
    "ddim": (denoising_intervals, lambda intervals, config: ddim(intervals, config, 0.0)),
    "ddpm": (ancestral_intervals, ddpm),
    "plms": (denoising_intervals, plms),
    "euler": (_euler_intervals, euler),
    "dpmpp_2m": (solver_intervals, dpmpp_2m),
    "unipc": (solver_intervals, unipc),
}
SAMPLERS: tuple[str, ...] = tuple(_COMPILERS)


def samplers_for(schedule: NoiseSchedule) -> tuple[str, ...]:
    """List the samplers that can run on a checkpoint: where eps is predicted at zero terminal signal, Euler alone."""
    blind = schedule.config.prediction == "eps" and float(schedule.alphas_cumprod[-1]) == 0.0
    if blind and schedule.config.spacing in ("trailing", "linspace"):
        return ("euler",)
    return SAMPLERS


@lru_cache(maxsize=64)
def compile_plan(
    sampler: str,
    schedule: NoiseSchedule,
    steps: int,
    eta: float = 0.0,
    strength: float = 1.0,
    span: Span = WHOLE,
) -> Plan:
    """Compile `sampler` in `steps` steps, of which `strength` < 1 (img2img) takes the last ones only.

    eta in [0, 1] is ddim's share of ancestral noise. strength in (0, 1] keeps the last int(steps · strength) steps,
    at least one. `span` is the part of the way from noise to picture that is gone, for models that share it
    (SDXL and its refiner): of the steps those at timesteps ≥ (1 - end)·T and < (1 - start)·T.

    Raises:
        InvalidRequest: a value is out of bounds, or the sampler can't run on this schedule, naming those that can.
    """
    _check(sampler, schedule, eta, strength)
    intervals_of, rows_of = _COMPILERS[sampler]
    intervals = intervals_of(schedule, steps)
    intervals = intervals[len(intervals) - max(1, int(len(intervals) * strength)) :]
    intervals = _within(intervals, schedule, span)
    rows = ddim(intervals, schedule.config, eta) if eta else rows_of(intervals, schedule.config)
    if not all(row.finite() for row in rows):
        raise _cannot_run(sampler, tuple(name for name in SAMPLERS if name == "euler"))
    return Plan(sampler, len(intervals), rows, history_of(rows), intervals[-1].end)


def _within(intervals: Sequence[Interval], schedule: NoiseSchedule, span: Span) -> Sequence[Interval]:
    first, last = (round((1.0 - part) * schedule.config.timesteps) for part in span)
    within = [interval for interval in intervals if last <= interval.t < first or span == WHOLE]
    if not within:
        detail = f"no step lies between denoising_start {span[0]:g} and denoising_end {span[1]:g}; take more steps"
        raise InvalidRequest(detail, field="steps", value=len(intervals), bound=list(span))
    return within


def _check(sampler: str, schedule: NoiseSchedule, eta: float, strength: float) -> None:
    able = samplers_for(schedule)
    if sampler not in able:
        raise _cannot_run(sampler, able)
    if not 0.0 <= eta <= 1.0:
        raise InvalidRequest(f"eta is {eta}; it must lie in [0, 1]", field="eta", value=eta, bound=[0, 1])
    if eta > 0.0 and sampler != "ddim":
        raise InvalidRequest(f"eta is {eta}; sampler {sampler} has no eta, ddim has", field="eta", value=eta, bound=0)
    if not 0.0 < strength <= 1.0:
        detail = f"strength is {strength}; it must lie in (0, 1]"
        raise InvalidRequest(detail, field="strength", value=strength, bound=[0, 1])


def _cannot_run(sampler: str, able: tuple[str, ...]) -> InvalidRequest:
    detail = f"sampler {sampler!r} can't run on this model; {', '.join(able)} can"
    return InvalidRequest(detail, field="sampler", value=sampler, bound=list(able))
