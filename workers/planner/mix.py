"""What clients ask for: classes of requests with weights, and the seeded Poisson stream of jobs that they make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, Field, TypeAdapter

from service.contract import Determinism, JobRequest, Kind, Lane, Wire


class JobClass(Wire):
    """Jobs that are alike, as one entry of the mix file; `width` and `height` are the answer's, in pixels."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Kind
    model: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    steps: int = Field(ge=1, le=1000)
    weight: float = Field(default=1.0, gt=0)
    guidance_scale: float = 1.0
    strength: float | None = Field(default=None, gt=0, le=1)
    num_images: int = Field(default=1, ge=1, le=16)
    priority: Lane = "interactive"
    determinism: Determinism = "fast"

    @property
    def name(self) -> str:
        images = f" ×{self.num_images}" if self.num_images > 1 else ""
        return f"{self.model} {self.kind} {self.width}×{self.height}, {self.steps} steps{images}, {self.priority}"

    @property
    def request(self) -> JobRequest:
        """A job of this class, for what the contract says of it; sampler and seed stand for any."""
        return JobRequest(sampler="ddim", seed=0, **self.model_dump(exclude={"weight"}))


MIX = TypeAdapter(tuple[JobClass, ...])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of class `index` of the mix comes at `time`, in seconds."""

    time: float
    index: int


def arrivals(mix: Sequence[JobClass], rate: float, count: int, seed: int) -> list[Arrival]:
    """`count` jobs of a Poisson process of `rate` jobs per second.

    One stream of gaps, scaled, for every rate of a seed: results at several rates are compared on the same draw.

    Raises:
        ValueError: the rate isn't positive.
    """
    if rate <= 0:
        raise ValueError(f"rate is {rate} jobs per second, more than 0")
    gaps, kinds = random.Random(f"gaps {seed}"), random.Random(f"kinds {seed}")
    chosen = kinds.choices(range(len(mix)), [one.weight for one in mix], k=count)
    time, made = 0.0, []
    for index in chosen:
        time += gaps.expovariate(1.0) / rate
        made.append(Arrival(time, index))
    return made
