"""Sampler and scheduler names of the web UI, and ours: what of them is offered follows from models' cards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from contract.card import ModelCard
from core.errors import InvalidRequest
from service.http.problems import shown


class Named(NamedTuple):
    """A sampler: the web UI's name, ours, and what older clients write."""

    name: str
    ours: str
    aliases: tuple[str, ...] = ()


SAMPLERS = (
    Named("DPM++ 2M", "dpmpp_2m", ("k_dpmpp_2m",)),
    Named("DPM++ SDE", "dpmpp_sde", ("k_dpmpp_sde",)),
    Named("DPM++ 2M SDE", "dpmpp_2m_sde", ("k_dpmpp_2m_sde",)),
    Named("DPM++ 2S a", "dpmpp_2s_a", ("k_dpmpp_2s_a",)),
    Named("DPM++ 3M SDE", "dpmpp_3m_sde", ("k_dpmpp_3m_sde",)),
    Named("Euler a", "euler_a", ("k_euler_a", "k_euler_ancestral")),
    Named("Euler", "euler", ("k_euler",)),
    Named("LMS", "lms", ("k_lms",)),
    Named("Heun", "heun", ("k_heun",)),
    Named("DPM2", "dpm2", ("k_dpm_2",)),
    Named("DPM2 a", "dpm2_a", ("k_dpm_2_a",)),
    Named("DDIM", "ddim"),
    Named("DDPM", "ddpm"),
    Named("PLMS", "plms"),
    Named("UniPC", "unipc"),
    Named("LCM", "lcm"),
    Named("TCD", "tcd"),
)
WITH_ETA = ("ddim", "tcd")  # of all others the web UI's eta isn't read


class Scheduler(NamedTuple):
    """A set of noise levels: the web UI's name and label, and our `schedule`; None: as the sampler and model say."""

    name: str
    label: str
    ours: str | None


SCHEDULERS = (
    Scheduler("automatic", "Automatic", None),
    Scheduler("uniform", "Uniform", "normal"),
    Scheduler("karras", "Karras", "karras"),
    Scheduler("exponential", "Exponential", "exponential"),
    Scheduler("sgm_uniform", "SGM Uniform", "sgm_uniform"),
    Scheduler("normal", "Normal", "normal"),
)


class Chosen(NamedTuple):
    """A sampler and a schedule of ours; None: the model's own."""

    sampler: str | None
    schedule: str | None


def offered_samplers(cards: Iterable[ModelCard]) -> list[Named]:
    """List the samplers that these models run; one that the web UI hasn't has our name."""
    able = {sampler: None for card in cards for sampler in card.samplers}
    known = [named for named in SAMPLERS if named.ours in able]
    listed = {named.ours for named in known}
    return [*known, *(Named(sampler, sampler) for sampler in able if sampler not in listed)]


def choose(sampler: str | None, scheduler: str | None, card: ModelCard) -> Chosen:
    """Translate the names of a request; a sampler's name may end with a scheduler's, as older clients write it.

    Raises:
        InvalidRequest: the model can't run the sampler, or there is no such scheduler; naming those that are.
    """
    schedule = _scheduler(scheduler)
    if not sampler:
        return Chosen(None, schedule.ours)
    found = _find(sampler, card)
    if found is not None:
        return Chosen(found, schedule.ours)
    for suffix in SCHEDULERS:
        short = sampler.removesuffix(f" {suffix.label}")
        if short != sampler and (found := _find(short, card)) is not None:
            return Chosen(found, schedule.ours or suffix.ours)
    names = [named.name for named in offered_samplers([card])]
    detail = f"sampler {shown(sampler)!r} not found; model {card.id} runs {', '.join(names)}"
    raise InvalidRequest(detail, field="sampler_name", value=sampler, bound=names)


def _find(name: str, card: ModelCard) -> str | None:
    wanted = name.lower()
    for named in offered_samplers([card]):
        if wanted in (named.name.lower(), named.ours, *named.aliases):
            return named.ours
    return None


def _scheduler(name: str | None) -> Scheduler:
    if not name:
        return SCHEDULERS[0]
    for scheduler in SCHEDULERS:
        if name.lower() in (scheduler.name, scheduler.label.lower()):
            return scheduler
    labels = [scheduler.label for scheduler in SCHEDULERS]
    detail = f"scheduler {shown(name)!r} not found; there are {', '.join(labels)}"
    raise InvalidRequest(detail, field="scheduler", value=name, bound=labels)


def name_of(sampler: str) -> str:
    """Return the web UI's name of a sampler of ours."""
    return next((named.name for named in SAMPLERS if named.ours == sampler), sampler)
