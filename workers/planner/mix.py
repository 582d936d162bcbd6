"""What clients ask for: classes of requests with weights, and the seeded Poisson stream of jobs that they make."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, Field, TypeAdapter

from contract.add_ons import HIRES_SCALE, HIRES_STRENGTH, LANCZOS, MAX_CONTROLS, MAX_HIRES_SCALE, AppliedControl, Hires
from contract.base import Kind, Lane, Wire
from contract.card import ModelCard
from contract.common import MAX_IMAGES, Determinism
from contract.request import REQUESTS, JobRequest, parse_request
from contract.uploads import Upload
from core.errors import ConfigurationError

PRICED = ("steps", "guidance_scale", "strength")  # defaults that a job's price depends on
_PICTURE = Upload(path="", sha256="", bytes=0, width=1, height=1)


class MixHires(Wire):
    """A second pass of an entry, its defaults those of requests."""

    model_config = ConfigDict(allow_inf_nan=False)

    scale: float = Field(default=HIRES_SCALE, gt=1, le=MAX_HIRES_SCALE)
    strength: float = Field(default=HIRES_STRENGTH, gt=0, le=1)
    steps: int | None = Field(default=None, ge=1, le=1000)


class MixEntry(Wire):
    """One entry of the mix file; `width` and `height` are the answer's, in pixels, before a second pass. None: the
    model's default.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Kind
    model: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    steps: int | None = Field(default=None, ge=1, le=1000)
    weight: float = Field(default=1.0, gt=0)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    image_guidance_scale: float | None = Field(default=None, ge=1, le=50)
    sampler: str | None = Field(default=None, min_length=1, max_length=64)
    strength: float | None = Field(default=None, gt=0, le=1)
    hires: MixHires | None = None
    num_images: int = Field(default=1, ge=1, le=MAX_IMAGES)
    controls: int = Field(default=0, ge=0, le=MAX_CONTROLS, description="ControlNets that act in all steps.")
    priority: Lane = "interactive"
    determinism: Determinism = "fast"


class JobClass(MixEntry):
    """Jobs that are alike, with every parameter that their price depends on."""

    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(default=1.0, ge=0, le=50)
    guidance_embedded: bool = Field(default=False, exclude_if=lambda embedded: not embedded)  # by its card

    @property
    def name(self) -> str:
        images = f" ×{self.num_images}" if self.num_images > 1 else ""
        second = f" and ×{self.hires.scale:g}" if self.hires else ""
        size = f"{self.width}×{self.height}{second}"
        return f"{self.model} {self.kind} {size}, {self.steps} steps{images}, {self.priority}"

    @property
    def request(self) -> JobRequest:
        """A job of this class, for what the contract says of it."""
        body = REQUESTS[self.kind]
        # The first stand for what a job's price doesn't depend on, or where nothing says it.
        values = {"sampler": "ddim", "seed": 0, "class_id": 0} | dict.fromkeys(body.file_names(), _PICTURE)
        values |= self.model_dump(exclude={"weight", "hires"}, exclude_none=True)
        values["controls"] = [AppliedControl(id="any", image=_PICTURE, hash="")] * self.controls
        if self.hires is not None:
            second = self.hires.model_dump() | {"steps": self.hires.steps or self.steps, "upscaler": LANCZOS}
            values["hires"] = Hires.model_validate(second)
        return parse_request({name: values[name] for name in body.model_fields.keys() & values})


MIX = TypeAdapter(tuple[MixEntry, ...])


def resolved(mix: Sequence[MixEntry], cards: Mapping[str, ModelCard]) -> tuple[JobClass, ...]:
    """Fill the classes in with the defaults that the service would give such requests.

    Raises:
        ConfigurationError: an entry lacks a field, and there is no card that has its default.
    """
    return tuple(_resolve(place, one, cards.get(one.model)) for place, one in enumerate(mix))


def _resolve(place: int, one: MixEntry, card: ModelCard | None) -> JobClass:
    given = one.model_dump(exclude_none=True)
    if card is None:
        for name in PRICED:
            if name in REQUESTS[one.kind].model_fields and name not in given:
                detail = f"--mix {place}.{name}: required, as the table has no card of {one.model} with its default"
                raise ConfigurationError(detail, field=name, bound="a value")
        return JobClass.model_validate(given)
    return JobClass.model_validate(_defaults(one.kind, card) | given)


def _defaults(kind: Kind, card: ModelCard) -> dict[str, object]:
    """Return them as `service.requests.resolution` has them."""
    fields = REQUESTS[kind].model_fields
    found: dict[str, object] = {"steps": card.defaults.steps, "sampler": card.defaults.sampler}
    if "guidance_scale" in fields and "guidance_scale" in card.fields:
        found |= {"guidance_scale": card.defaults.guidance_scale, "guidance_embedded": card.guidance_embedded}
    if "image_guidance_scale" in fields and card.defaults.image_guidance_scale is not None:
        found["image_guidance_scale"] = card.defaults.image_guidance_scale
    if "strength" in fields:
        found["strength"] = card.defaults.strength_of(kind)
    return found


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of class `index` of the mix comes at `time`, in seconds."""

    time: float
    index: int


def arrivals(mix: Sequence[JobClass], rate: float, count: int, seed: int) -> list[Arrival]:
    """Draw `count` jobs of a Poisson process of `rate` jobs per second.

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
