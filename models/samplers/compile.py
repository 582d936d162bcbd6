"""Compiles a sampler, by name, for a checkpoint's schedule into a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

from core.errors import InvalidRequest
from models.samplers.consistency import consistency_intervals, lcm, tcd
from models.samplers.exponential import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_3m_sde_diffusers, unipc
from models.samplers.levels import DIFFUSERS, FLOOR, SIGMAS, diffusers_intervals, sigma_intervals
from models.samplers.lms import lms
from models.samplers.plms import plms
from models.samplers.single_step import ancestral, ddim, ddpm, euler
from models.samplers.steps import (
    Interval,
    ancestral_intervals,
    denoising_intervals,
    euler_intervals,
    given_intervals,
    solver_intervals,
)
from models.samplers.table import Plan, Row, history_of
from models.samplers.two_rows import dpm2, dpm2_a, dpmpp_2s_a, dpmpp_sde, heun
from models.schedule import NoiseLevel, NoiseSchedule, ScheduleConfig

EULER_FLOOR = FLOOR  # ᾱ that stands for 0, where Euler's σ/α must be finite
SPACINGS = ("leading", "trailing", "linspace")  # that may stand for the checkpoint's own
SCHEDULES: tuple[str, ...] = (*SPACINGS, *SIGMAS, *DIFFUSERS)
Span: TypeAlias = tuple[float, float]  # from 0, pure noise, to 1, the picture
WHOLE: Span = (0.0, 1.0)

_Intervals = Callable[[NoiseSchedule, int], Sequence[Interval]]
_ByConfig = Callable[[Sequence[Interval], ScheduleConfig], tuple[Row, ...]]
_BySchedule = Callable[[Sequence[Interval], NoiseSchedule], tuple[Row, ...]]


@dataclass(frozen=True, slots=True)
class _Run:
    """What rows are made of: the steps that are run, the last of `steps` ones."""

    intervals: Sequence[Interval]
    schedule: NoiseSchedule
    eta: float
    steps: int

    @property
    def config(self) -> ScheduleConfig:
        return self.schedule.config


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Its steps where the request names no schedule, its rows, and whether eta says something to it."""

    intervals: _Intervals
    rows: Callable[[_Run], tuple[Row, ...]]
    eta: bool = False
    own_steps: bool = False  # it knows no other timesteps than its own or a given list


def _euler_intervals(schedule: NoiseSchedule, steps: int) -> Sequence[Interval]:
    return euler_intervals(schedule, steps, EULER_FLOOR)


def _simple(intervals: _Intervals, rows: _ByConfig) -> _Sampler:
    return _Sampler(intervals, lambda run: rows(run.intervals, run.config))


def _asking_twice(rows: _BySchedule) -> _Sampler:
    return _Sampler(_euler_intervals, lambda run: rows(run.intervals, run.schedule))


_COMPILERS: Mapping[str, _Sampler] = {
    "ddim": _Sampler(denoising_intervals, lambda run: ddim(run.intervals, run.config, run.eta), eta=True),
    "ddpm": _simple(ancestral_intervals, ddpm),
    "plms": _simple(denoising_intervals, plms),
    "euler": _simple(_euler_intervals, euler),
    "dpmpp_2m": _simple(solver_intervals, dpmpp_2m),
    "unipc": _simple(solver_intervals, unipc),
    "euler_a": _simple(_euler_intervals, ancestral),
    "heun": _asking_twice(heun),
    "dpm2": _asking_twice(dpm2),
    "dpm2_a": _asking_twice(dpm2_a),
    "lms": _simple(_euler_intervals, lms),
    "dpmpp_2s_a": _asking_twice(dpmpp_2s_a),
    "dpmpp_sde": _asking_twice(dpmpp_sde),
    "dpmpp_2m_sde": _simple(solver_intervals, dpmpp_2m_sde),
    "dpmpp_3m_sde": _simple(solver_intervals, dpmpp_3m_sde),
    "dpmpp_3m_sde_diffusers": _Sampler(
        solver_intervals, lambda run: dpmpp_3m_sde_diffusers(run.intervals, run.config, run.steps)
    ),
    "lcm": replace(_simple(consistency_intervals, lcm), own_steps=True),
    "tcd": _Sampler(
        consistency_intervals, lambda run: tcd(run.intervals, run.schedule, run.eta), eta=True, own_steps=True
    ),
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
    levels: str | None = None,
    timesteps: tuple[int, ...] | None = None,
    guidance_interval: tuple[float, float] | None = None,
    span: Span = WHOLE,
) -> Plan:
    """Compile `sampler` in `steps` steps, of which `strength` < 1 (img2img) takes the last ones only.

    eta in [0, 1] is ddim's share of ancestral noise, and tcd's γ. strength in (0, 1] keeps the last
    int(steps · strength) steps, at least one. `levels` is one of `SCHEDULES`, None the checkpoint's own spacing;
    `timesteps`, falling, are steps by themselves. `guidance_interval` bounds the share of the training timesteps,
    0 clean and 1 noise, within which rows are guided. `span` is the part of the way from noise to picture that is
    gone, for models that share it (SDXL and its refiner): of the steps those at timesteps ≥ (1 - end)·T and
    < (1 - start)·T.

    Raises:
        InvalidRequest: a value is out of bounds, or the sampler can't run on this schedule, naming those that can.
    """
    _check(sampler, schedule, eta, strength)
    whole = _steps(sampler, schedule, steps, levels, timesteps)
    intervals = whole[len(whole) - max(1, int(len(whole) * strength)) :]
    intervals = _spanned(intervals, schedule, span)
    rows = _COMPILERS[sampler].rows(_Run(intervals, schedule, eta, len(whole)))
    if not all(row.finite() for row in rows):
        raise _cannot_run(sampler, tuple(name for name in SAMPLERS if name == "euler"))
    if guidance_interval is not None:
        rows = _within(rows, guidance_interval, schedule.config.timesteps)
    scale = intervals[0].start.sigma if levels in SIGMAS else 1.0
    return Plan(sampler, len(intervals), rows, history_of(rows), intervals[-1].end, scale)


def _spanned(intervals: Sequence[Interval], schedule: NoiseSchedule, span: Span) -> Sequence[Interval]:
    first, last = (round((1.0 - part) * schedule.config.timesteps) for part in span)
    within = [interval for interval in intervals if last <= interval.t < first or span == WHOLE]
    if not within:
        detail = f"no step lies between denoising_start {span[0]:g} and denoising_end {span[1]:g}"
        raise InvalidRequest(
            f"{detail}; take more steps, or more of strength", field="steps", value=len(intervals), bound=list(span)
        )
    return within


def _steps(
    sampler: str, schedule: NoiseSchedule, steps: int, levels: str | None, timesteps: tuple[int, ...] | None
) -> Sequence[Interval]:
    compiler = _COMPILERS[sampler]
    if timesteps is not None:
        floor = EULER_FLOOR if compiler.intervals is _euler_intervals else 0.0
        return given_intervals(schedule, timesteps, _final(sampler, schedule), floor)
    if levels is None:
        return compiler.intervals(schedule, steps)
    _check_levels(sampler, levels)
    if levels in SPACINGS:
        spaced = NoiseSchedule(replace(schedule.config, spacing=levels))  # type: ignore[arg-type]  # checked above
        return compiler.intervals(spaced, steps)
    if levels in SIGMAS:
        return sigma_intervals(levels, schedule, steps)
    return diffusers_intervals(levels, schedule, steps, compiler.intervals is solver_intervals)


def _final(sampler: str, schedule: NoiseSchedule) -> NoiseLevel:
    """Return the level at which the sampler's last step ends."""
    own = _COMPILERS[sampler].intervals is denoising_intervals
    return NoiseLevel.of(schedule.final_alpha_cumprod) if own else NoiseLevel(1.0, 0.0)


def _within(rows: tuple[Row, ...], interval: tuple[float, float], T: int) -> tuple[Row, ...]:
    low, high = interval
    return tuple(replace(row, guided=low <= row.t / (T - 1) <= high) for row in rows)


def _check_levels(sampler: str, levels: str) -> None:
    if levels not in SCHEDULES:
        detail = f"schedule is {levels!r}; it must be one of {', '.join(SCHEDULES)}"
        raise InvalidRequest(detail, field="schedule", value=levels, bound=list(SCHEDULES))
    if _COMPILERS[sampler].own_steps:
        detail = f"schedule is {levels!r}; sampler {sampler} has timesteps of its own, or takes a list of timesteps"
        raise InvalidRequest(detail, field="schedule", value=levels, bound=None)


def _check(sampler: str, schedule: NoiseSchedule, eta: float, strength: float) -> None:
    able = samplers_for(schedule)
    if sampler not in able:
        raise _cannot_run(sampler, able)
    if not 0.0 <= eta <= 1.0:
        raise InvalidRequest(f"eta is {eta}; it must lie in [0, 1]", field="eta", value=eta, bound=[0, 1])
    if eta > 0.0 and not _COMPILERS[sampler].eta:
        have = " and ".join(name for name, compiler in _COMPILERS.items() if compiler.eta)
        detail = f"eta is {eta}; sampler {sampler} has no eta, {have} have"
        raise InvalidRequest(detail, field="eta", value=eta, bound=0)
    if not 0.0 < strength <= 1.0:
        detail = f"strength is {strength}; it must lie in (0, 1]"
        raise InvalidRequest(detail, field="strength", value=strength, bound=[0, 1])


def _cannot_run(sampler: str, able: tuple[str, ...]) -> InvalidRequest:
    detail = f"sampler {sampler!r} can't run on this model; {', '.join(able)} can"
    return InvalidRequest(detail, field="sampler", value=sampler, bound=list(able))
