"""What the planner reads: the mix file, and step-time tables from a bench's file or from the workers' Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract.card import ModelCard
from contract.measurements import Measured, StepTimes
from contract.redis_keys import CARDS_KEY, serving_key
from core.clock import CLOCK
from core.errors import ConfigurationError, Unavailable
from core.text import as_text
from workers.metrics.step_times import read_published
from workers.planner.mix import MIX, MixEntry


class BenchReport(Measured):
    """What `latentd bench --json` prints."""

    device: str
    threads: int
    torch: str
    max_rows: int
    tables: tuple[StepTimes, ...]
    images_per_s: dict[str, float] = Field(description="Of full calls of the default request, by model and kind.")
    cards: tuple[ModelCard, ...] = Field(default=(), description="Of the models, with the defaults of requests.")


@dataclass(frozen=True, slots=True)
class LiveTables:
    """Tables by model, of one kind of device; `others` were measured as well."""

    device_kind: str
    others: tuple[str, ...] = ()
    tables: Mapping[str, StepTimes] = field(default_factory=dict)


def read_mix(path: Path) -> tuple[MixEntry, ...]:
    """Read the entries of the file, at least one.

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
    """Read a file that `latentd bench --json` wrote.

    Raises:
        ConfigurationError: the file isn't there or is none of those.
    """
    try:
        return BenchReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"--table {path}: {_reason(error)}", field="table", value=str(path)) from error


def live_cards(redis: Redis, models: Iterable[str]) -> dict[str, ModelCard]:
    """Read cards that workers have published, of those models that have one.

    Raises:
        Unavailable: Redis doesn't answer.
    """
    try:
        found = {model: redis.hget(CARDS_KEY, model) for model in models}
    except RedisError as error:
        raise _away(error) from error
    return {model: ModelCard.read(card) for model, card in found.items() if card is not None}


def live_tables(redis: Redis, models: Iterable[str], device_kind: str | None = None) -> LiveTables:
    """Read published tables of those models that have one, all of one kind of device: the one asked for,
    or the only one that was measured, or of several the only one that serves.

    Raises:
        ConfigurationError: none of that kind was measured, or several serve.
        Unavailable: Redis doesn't answer.
    """
    models = list(models)
    try:
        found = {model: read_published(redis, model) for model in models}
        serving = {kind for model in models for kind in _serving(redis, model)}
    except RedisError as error:
        raise _away(error) from error
    measured = sorted({kind for tables in found.values() for kind in tables})
    chosen = _choose(measured, serving, device_kind)
    tables = {model: own[chosen] for model, own in found.items() if chosen in own}
    return LiveTables(chosen, tuple(kind for kind in measured if kind != chosen), tables)


def _serving(redis: Redis, model: str) -> set[str]:
    members: Any = redis.zrangebyscore(serving_key(model), CLOCK.unix(), "+inf")
    return {as_text(member).partition("@")[2] for member in members}


def _choose(measured: Sequence[str], serving: Set[str], asked: str | None) -> str:
    if not measured:
        return asked or ""  # `price` says which model has no table
    if asked is None and len(measured) == 1:
        return measured[0]
    live = [kind for kind in measured if kind in serving]
    if asked is None and len(live) == 1:
        return live[0]
    if asked is None:
        count = "several kinds of devices serve" if live else "no worker serves now"
        raise _unclear(f"--device-kind: {count}; name one of {', '.join(measured)}", None, measured)
    if asked not in measured:
        raise _unclear(f"--device-kind {asked!r}: measured were {', '.join(measured)}", asked, measured)
    return asked


def _unclear(detail: str, asked: str | None, measured: Sequence[str]) -> ConfigurationError:
    return ConfigurationError(detail, field="device_kind", value=asked, bound=list(measured))


def _away(error: RedisError) -> Unavailable:
    return Unavailable(f"Redis, which has the workers' step times, doesn't answer: {error}")


def _reason(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg']}"
