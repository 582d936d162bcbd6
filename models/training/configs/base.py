"""What every training run is told: data, length, optimiser, precision; and how a file is read."""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import ConfigurationError

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of a moving average
Side = Annotated[int, Field(ge=1)]  # of a square, pixels
C = TypeVar("C", bound="Strict")


class Strict(BaseModel):
    """A frozen part of a configuration; a key that it doesn't know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ComposeConfig(Strict):
    """How transparent pictures come onto a ground."""

    scale: tuple[float, float] = (0.82, 1.0)  # of the canvas, one thing alone
    coloured: Share = 0.3  # grounds of a named colour; the others are white
    told: Share = 0.85  # of the coloured grounds, those that the caption names
    scenes: Share = 0.2  # pictures of two things


class DataConfig(Strict):
    """A folder of pictures and how they are drawn from it."""

    folder: Path
    size: int = Field(default=256, ge=16, le=4096)  # pixels a side
    crop: Literal["center", "random"] = "center"  # center: the largest square (SR3)
    zoom: Share = 1.0  # smallest share of the largest square that a random crop takes
    flip: bool = False
    compose: ComposeConfig | None = None
    weights: dict[Share, str] = Field(default_factory=dict)  # share of the run → column that weighs pictures from then
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0  # pictures that training never sees
    workers: int = Field(default=0, ge=0, le=64)  # processes that draw pictures

    @model_validator(mode="after")
    def _used(self) -> DataConfig:
        whole = {"crop": "center", "zoom": 1.0, "flip": False} if self.compose is not None else {}
        wrong = next((name for name, value in whole.items() if getattr(self, name) != value), None)
        if wrong is not None:
            given, bound = getattr(self, wrong), whole[wrong]
            raise ValueError(f"{wrong} is {given}; compose lays whole pictures, so it must be {bound}")
        if self.crop == "center" and self.zoom != 1.0:
            raise ValueError(f"zoom is {self.zoom}; crop is center, which takes the largest square, so it must be 1.0")
        return self


class OptimizerConfig(Strict):
    """AdamW, its rate constant after the warm-up until `decay_from`, then a cosine down to `final` of it."""

    learning_rate: float = Field(gt=0)
    warmup: int = Field(default=100, ge=0)  # steps
    decay_from: Share = 0.6  # of the run
    final: Share = 0.03
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)  # gradient norm


class RunConfig(Strict):
    """A training run, less what is trained."""

    out: Path
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)  # samples a step, over all processes
    accumulate: int = Field(default=1, ge=1)  # parts of a process's share that are computed one after another
    seed: int = Field(default=0, ge=0)
    data: DataConfig
    optimizer: OptimizerConfig
    ema: Decay = 0.999  # of the weights
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the networks' arithmetic; weights are float32
    compile: Literal["auto", "never", "always"] = "auto"  # auto: on CUDA, where the minute that it takes pays
    save_every: int = Field(default=500, ge=1)
    log_every: int = Field(default=10, ge=1)
    sample_every: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> RunConfig:
        if self.batch % self.accumulate:
            raise ValueError(f"batch is {self.batch}; accumulate is {self.accumulate} and must divide it")
        return self

    @model_validator(mode="after")
    def _read(self) -> RunConfig:
        for key, why in self.unread().items():
            *above, name = key.split(".")
            holder: BaseModel = reduce(getattr, above, self)
            given = getattr(holder, name)
            # Defaults pass, as the configuration that a run writes has all of them.
            if given != type(holder).model_fields[name].get_default():
                raise ValueError(f"{key} is {given}; {why}, so that it would do nothing: leave it out")
        return self

    def unread(self) -> dict[str, str]:
        """Return which settings nothing in this run reads, by key, and why."""
        return {}

    @property
    def name(self) -> str:
        """What the run makes is called: its folder's own name, where that is said as `.`, too."""
        return os.path.basename(os.path.abspath(self.out))


def check_levels(attention: tuple[int, ...], levels: int) -> None:
    """Check that the levels that attend are there.

    Raises:
        ValueError: one isn't.
    """
    wrong = next((level for level in attention if not 0 <= level < levels), None)
    if wrong is not None:
        raise ValueError(f"attention has {wrong}; channels has levels 0 to {levels - 1}")


def read_config(file: Path, kind: type[C]) -> C:
    """Read a YAML file.

    Raises:
        ConfigurationError: naming the file and the key that is unknown, missing or out of bounds.
    """
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file}: can't be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file}: holds {type(values).__name__}; a mapping of keys is expected")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _named(file, error) from error


def write_config(config: Strict, file: Path) -> None:
    """Write a configuration with every default filled in."""
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), "utf-8")


def _named(file: Path, error: ValidationError) -> ConfigurationError:
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    first = min(
        error.errors(), key=lambda found: found["type"] not in unknown
    )  # a misspelt key before what it left out
    key = ".".join(str(part) for part in first["loc"])
    reasons = {**dict.fromkeys(unknown, "is unknown"), "missing": "is missing"}
    reason = reasons.get(first["type"], f"is {first['input']!r}: {first['msg']}")
    where = f"{key} {reason}" if key else first["msg"]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigurationError(f"{file}: {where}{more}", field=key, value=first["input"])
