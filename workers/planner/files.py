"""What the planner reads: the mix file, and step-time tables from a bench's file or from the workers' Redis."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from latentd.errors import ConfigurationError, Unavailable
from service.contract import CARDS_KEY, ModelCard, StepTimes, Wire
from workers.planner.mix import MIX, JobClass
from workers.steptimes import read_cells, step_times


class BenchReport(Wire):
    """What `latentd bench --json` prints."""

    device: str
    threads: int
    torch: str
    max_rows: int
    tables: tuple[StepTimes, ...]
    images_per_s: dict[str, float] = Field(description="Of full calls of the default request, by model and kind.")


def read_mix(path: Path) -> tuple[JobClass, ...]:
    """The classes of requests, at least one.

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


def read_tables(path: Path) -> dict[str, StepTimes]:
    """Tables by model, from a file that `latentd bench --json` wrote.

    Raises:
        ConfigurationError: the file isn't there or is none of those.
    """
    try:
        report = BenchReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"--table {path}: {_reason(error)}", field="table", value=str(path)) from error
    return {table.model: table for table in report.tables}


def live_tables(redis: Redis, models: Iterable[str]) -> dict[str, StepTimes]:
    """Tables that workers have published, of those models that have one.

    Raises:
        Unavailable: Redis doesn't answer.
    """
    found = {}
    try:
        for model in models:
            card, cells = redis.hget(CARDS_KEY, model), read_cells(redis, model)
            if card is not None and cells:
                factor = ModelCard.model_validate_json(card).latent_factor
                found[model] = step_times(model, factor, cells)
    except RedisError as error:
        raise Unavailable(f"Redis, which has the workers' step times, doesn't answer: {error}") from error
    return found


def _reason(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place + ': ' if place else ''}{first['msg']}"
