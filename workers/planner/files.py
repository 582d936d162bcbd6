"""What the planner reads: the mix file, and step-time tables from a bench's file or from the workers' Redis."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract.base import Wire
from contract.card import ModelCard
from contract.measurements import StepTimes
from contract.redis_keys import CARDS_KEY
from core.errors import ConfigurationError, Unavailable
from workers.metrics.step_times import read_cells, step_times
from workers.planner.mix import MIX, MixEntry


class BenchReport(Wire):
    """What `latentd bench --json` prints."""

    device: str
    threads: int
    torch: str
    max_rows: int
    tables: tuple[StepTimes, ...]
    images_per_s: dict[str, float] = Field(description="Of full calls of the default request, by model and kind.")
    cards: tuple[ModelCard, ...] = Field(default=(), description="Of the models, with the defaults of requests.")


def read_mix(path: Path) -> tuple[MixEntry, ...]:
    """The entries of the file, at least one.

    Raises:
        ConfigurationError: the file isn't there, isn't JSON, or an entry is wrong; the detail says which.
    """
    try:
        mix = MIX.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"--mix {path}: {_reason(error)}", field="mix", value=str(path)) from error
    if not mix:
        raise ConfigurationError(f"--mix {path}: at least one class of requests", field="mix", value=str(path))
    return mix


def read_report(path: Path) -> BenchReport:
    """A file that `latentd bench --json` wrote.

    Raises:
        ConfigurationError: the file isn't there or is none of those.
    """
    try:
        return BenchReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"--table {path}: {_reason(error)}", field="table", value=str(path)) from error


def live_cards(redis: Redis, models: Iterable[str]) -> dict[str, ModelCard]:
    """Cards that workers have published, of those models that have one.

    Raises:
        Unavailable: Redis doesn't answer.
    """
    try:
        found = {model: redis.hget(CARDS_KEY, model) for model in models}
    except RedisError as error:
        raise _away(error) from error
    return {model: ModelCard.read(card) for model, card in found.items() if card is not None}


def live_tables(redis: Redis, models: Iterable[str]) -> dict[str, StepTimes]:
    """Tables that workers have published, of those models that have one.

    Raises:
        Unavailable: Redis doesn't answer.
    """
    cards = live_cards(redis, models)
    try:
        cells = {model: read_cells(redis, model) for model in cards}
    except RedisError as error:
        raise _away(error) from error
    return {model: step_times(model, cards[model].latent_factor, found) for model, found in cells.items() if found}


def _away(error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, which has the workers' step times, doesn't answer: {error}")


def _reason(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg']}"
