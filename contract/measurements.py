"""What workers measure, the step-time table, and what follows from it: seconds of a job of any size.

Workers write cells of a model's table into one Redis hash, named by what was measured on which kind of device:
`4x32x32:rows:16@NVIDIA H100` is a UNet call of 16 rows of latents 4×32×32. Gateway and planner predict by one rule.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, get_args

from pydantic import ConfigDict, Field

from contract.base import Kind, Wire
from contract.request import JobRequest
from contract.stages import stages

T = TypeVar("T")
Shape: TypeAlias = tuple[int, int, int]  # c, h, w of a latent

PADDING = 8  # latent pixels: frames are padded up to the UNet's stride
LATENT_FACTOR = "latent_factor"  # field of the hash beside its cells: pixels of the answer per latent pixel
WRITTEN_AT = "written_at"  # field of the hash: when a cell was last written
OF_SHAPE = re.compile("([0-9]+)x([0-9]+)x([0-9]+):(.+)")
OF_MODEL = {"store": "store_s", "round": "round_s", "move": "move_s", "strict_rows": "strict_rows"}


class Measured(Wire):
    """Base of measurements: a field that a newer version added is passed over, so that versions work side by side."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ShapeTimes(Measured):
    """Seconds that a worker needs for latents of one shape (c, h, w)."""

    shape: Shape
    calls: dict[int, float] = Field(description="Rows of a UNet call, fillers included, and its seconds.")
    encode_s: dict[Kind, float] = Field(description="Prompts and pictures of one job, by its kind.")
    decode_s: float | None = Field(description="Decoding one image.")


class StepTimes(Measured):
    """A model's step-time table on one kind of device."""

    model: str
    latent_factor: int
    shapes: tuple[ShapeTimes, ...]
    store_s: float | None = Field(default=None, description="Encoding a file and storing it, beside the GPU.")
    round_s: float | None = Field(default=None, description="A round of the worker's loop beside its computing.")
    move_s: float | None = Field(default=None, description="What one claimed or ended job adds to a round.")
    strict_rows: float | None = Field(default=None, description="Rows of a strict call, fillers included.")


def shape_cell(shape: Sequence[int], what: str) -> str:
    """Name of a cell of one latent shape, without the device: `what` is `rows:N`, `encode:KIND` or `decode`."""
    return f"{'x'.join(map(str, shape))}:{what}"


def on_device(cell: str, device_kind: str) -> str:
    return f"{cell}@{device_kind}"


def read_tables(model: str, fields: Mapping[str, str]) -> dict[str, StepTimes]:
    """The model's tables by device kind, from the hash's fields; unknown cells are passed over."""
    factor = int(fields.get(LATENT_FACTOR, 0))
    if factor < 1:
        return {}
    cells: dict[str, dict[str, float]] = {}
    for name, value in fields.items():
        cell, at, device_kind = name.partition("@")
        if at:
            cells.setdefault(device_kind, {})[cell] = float(value)
    return {device_kind: step_times(model, factor, own) for device_kind, own in sorted(cells.items())}


def step_times(model: str, latent_factor: int, cells: Mapping[str, float]) -> StepTimes:
    """The table that the cells of one device kind make up."""
    shapes: dict[Shape, dict[str, float]] = {}
    for name, value in sorted(cells.items()):
        if found := OF_SHAPE.fullmatch(name):
            shapes.setdefault((int(found[1]), int(found[2]), int(found[3])), {})[found[4]] = value
    others = {named: cells.get(cell) for cell, named in OF_MODEL.items()}
    times = tuple(_shape_times(shape, own) for shape, own in shapes.items())
    return StepTimes(model=model, latent_factor=latent_factor, shapes=times, **others)


def _shape_times(shape: Shape, cells: Mapping[str, float]) -> ShapeTimes:
    calls = {int(what.removeprefix("rows:")): value for what, value in cells.items() if what.startswith("rows:")}
    encode: dict[Kind, float] = {kind: cells[f"encode:{kind}"] for kind in get_args(Kind) if f"encode:{kind}" in cells}
    return ShapeTimes(shape=shape, calls=dict(sorted(calls.items())), encode_s=encode, decode_s=cells.get("decode"))


@dataclass(frozen=True, slots=True)
class JobWork:
    """What a job asks of a worker, as far as its seconds depend on it.

    Of a job with stages the last one's size stands for all, calls of the others counted by their pixels, and a second
    model's as the first one's.
    """

    kind: Kind
    width: int
    height: int
    steps: int  # calls of `rows` rows that its evaluations come to
    rows: int  # of all images in one call
    images: int
    strict: bool = False  # not in the text: a queue of such jobs fills their calls

    @classmethod
    def of(cls, request: JobRequest) -> JobWork:
        parts = stages(request)
        width, height, rows = parts[-1].width, parts[-1].height, request.rows_per_call
        evaluations = sum(part.rows * part.width * part.height for part in parts) / (width * height)
        steps = max(1, round(evaluations / rows))
        return cls(request.kind, width, height, steps, rows, request.num_images, request.determinism == "strict")

    @classmethod
    def parse(cls, text: str) -> JobWork:
        """From the value of a lane's hash of work."""
        kind, *numbers = text.split()
        return cls(kind, *map(int, numbers))  # type: ignore[arg-type]  # the gateway wrote what it had validated

    def __str__(self) -> str:
        return f"{self.kind} {self.width} {self.height} {self.steps} {self.rows} {self.images}"


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of a call by its rows: linear between measured sizes, constant below them, proportional above."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    scale: float = 1.0
    _known: dict[int, float] = field(default_factory=dict, compare=False)

    def at(self, rows: int) -> float:
        if rows not in self._known:
            self._known[rows] = self.scale * self._interpolate(rows)
        return self._known[rows]

    def _interpolate(self, rows: int) -> float:
        place = bisect_left(self.rows, rows)
        if place == 0:
            return self.seconds[0]
        if place == len(self.rows):
            return self.seconds[-1] * rows / self.rows[-1]
        (left, right), (low, high) = self.rows[place - 1 : place + 1], self.seconds[place - 1 : place + 1]
        return low + (high - low) * (rows - left) / (right - left)

    @property
    def row_s(self) -> float:
        """One row's share of the fullest call that was measured."""
        return self.at(self.rows[-1]) / self.rows[-1]


@dataclass(frozen=True, slots=True)
class Source:
    """The measured shape that seconds are taken from, and what they are multiplied by: the ratio of the areas."""

    shape: Shape
    ratio: float


@dataclass(frozen=True, slots=True)
class SizeTimes:
    """Seconds of one kind of job at one size, measured or scaled from the size that is nearest in area.

    `shape` is its latents'; `sources` are those of calls, encoding and decoding. None: not measured at any size.
    """

    shape: Shape
    calls: Curve
    encode_s: float | None
    decode_s: float | None
    store_s: float | None
    round_s: float | None
    strict_rows: float | None
    sources: Mapping[str, Source]

    def gpu_s(self, work: JobWork) -> float:
        """GPU time of a job whose calls are full of its own rows or others'."""
        return work.steps * work.rows * self.calls.row_s + (self.encode_s or 0.0) + work.images * (self.decode_s or 0.0)

    def tail_s(self, work: JobWork) -> float:
        """From the last step to the result: images are decoded one after another and stored beside that."""
        return work.images * (self.decode_s or 0.0) + (self.store_s or 0.0)

    def alone_s(self, work: JobWork) -> float:
        """From claim to result where nothing else runs: its images share calls, which fillers complete if strict."""
        each = int(self.strict_rows or 0) if work.strict else 0
        calls = math.ceil(work.rows / each) if each else 1
        step_s = calls * self.calls.at(each or work.rows) + (self.round_s or 0.0)
        return (self.encode_s or 0.0) + work.steps * step_s + self.tail_s(work)


def predict(table: StepTimes, kind: Kind, width: int, height: int) -> SizeTimes | None:
    """Seconds of jobs of a kind whose answers have this size in pixels; None where no call was measured."""
    size = math.ceil(height / table.latent_factor), math.ceil(width / table.latent_factor)
    calls = _nearest(table, size, lambda times: times.calls or None)
    if calls is None:
        return None
    encode = _nearest(table, size, lambda times: times.encode_s.get(kind))
    decode = _nearest(table, size, lambda times: times.decode_s)
    found = {"calls": calls, "encoding": encode, "decoding": decode}
    (channels, h, w), ratio = calls[1].shape, calls[1].ratio
    rows = sorted(calls[0])
    return SizeTimes(
        shape=(channels, h, w) if ratio == 1.0 else (channels, *size),
        calls=Curve(tuple(rows), tuple(calls[0][each] for each in rows), ratio),
        encode_s=encode and encode[0] * encode[1].ratio,
        decode_s=decode and decode[0] * decode[1].ratio,
        store_s=None if table.store_s is None else table.store_s * ratio,
        round_s=table.round_s,
        strict_rows=table.strict_rows,
        sources={what: one[1] for what, one in found.items() if one is not None},
    )


def _nearest(
    table: StepTimes, size: tuple[int, int], value: Callable[[ShapeTimes], T | None]
) -> tuple[T, Source] | None:
    """Of the shapes that have a value: the one that a latent of `size` (h, w) has once padded, and ratio 1; else the
    nearest in area, and the ratio of areas."""
    have = [(times.shape, found) for times in table.shapes if (found := value(times)) is not None]
    same = [one for one in have if all(0 <= m - s < PADDING for m, s in zip(one[0][1:], size, strict=True))]
    if same:
        shape, found = min(same, key=lambda one: _area(one[0]))
        return found, Source(shape, 1.0)
    if not have:
        return None
    area = size[0] * size[1]
    shape, found = min(have, key=lambda one: abs(math.log(_area(one[0]) / area)))
    return found, Source(shape, area / _area(shape))


def _area(shape: Shape) -> int:
    return shape[1] * shape[2]
