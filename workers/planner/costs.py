"""Seconds of everything that a simulated worker does, from the step-time tables that real workers measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from contract.lanes import Lane
from contract.measurements import ShapeTimes, StepTimes
from core.errors import ConfigurationError
from workers.claim_policy import CLAIMS_A_ROUND
from workers.engine.scheduler import Shape
from workers.engine.turn_policy import DECODE_CHUNK
from workers.planner.mix import JobClass

ROUND_S, MOVE_S = 0.001, 0.003  # of the workers of docs/capacity.md, where a table (of `latentd bench`) has none
PADDING = 8  # latent pixels: frames are padded up to the UNet's stride


@dataclass(frozen=True, slots=True)
class JobCost:
    """What each job of a class takes. `encode_s` is per job, `decode_s` and `store_s` per image."""

    name: str
    model: str
    lane: Lane
    shape: Shape
    strict: bool
    images: int
    steps: int
    rows: int
    encode_s: float
    decode_s: float
    store_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """A mix, priced. `assumed` are sentences on what wasn't measured."""

    jobs: tuple[JobCost, ...]
    round_s: float
    move_s: float
    assumed: tuple[str, ...]
    _curves: Mapping[tuple[str, Shape], Curve]

    @property
    def models(self) -> list[str]:
        return sorted({job.model for job in self.jobs})

    def call_s(self, model: str, shape: Shape, rows: int) -> float:
        """One UNet call."""
        return self._curves[model, shape].at(rows)

    def alone_s(self, job: JobCost) -> float:
        """From claim to result on an idle GPU, about: its images share calls and storing."""
        call_s = self.call_s(job.model, job.shape, job.images * job.rows)
        return job.encode_s + job.steps * (call_s + self.round_s) + job.images * job.decode_s + job.store_s

    def gpu_s(self, job: JobCost, rows: int) -> float:
        """GPU time of one job where every call has `rows` rows."""
        row_s = self.call_s(job.model, job.shape, rows) / rows
        return job.images * (job.steps * job.rows * row_s + job.decode_s) + job.encode_s

    def work_s(self, job: JobCost, rows: int) -> float:
        """The same with the rounds about its turns: of a worker's time."""
        turns = 1 + job.images * (job.steps * job.rows / rows + 1 / (1 if job.strict else DECODE_CHUNK))
        return self.gpu_s(job, rows) + turns * self.round_s + 2 * self.move_s

    def least_work_s(self, job: JobCost, max_rows: int, strict_rows: int) -> float:
        """That at the best size of calls: no fleet needs less."""
        if job.strict:
            return self.work_s(job, strict_rows)
        largest = max(max_rows, strict_rows if any(one.strict for one in self.jobs) else 1, job.rows)
        return min(self.work_s(job, rows) for rows in range(job.rows, largest + 1))

    def turn_s(self, max_rows: int) -> float:
        """The longest round with a turn in it."""
        calls = (self.call_s(job.model, job.shape, max(max_rows, job.rows)) for job in self.jobs)
        others = (max(job.encode_s, DECODE_CHUNK * job.decode_s) for job in self.jobs)
        return max(*calls, *others) + self.round_s + 2 * CLAIMS_A_ROUND * self.move_s

    def extrapolated(self, max_rows: int, strict_rows: int) -> tuple[str, ...]:
        """Sentences on calls that a policy may make, of more or fewer rows than were measured."""
        told = (self._beyond(job, strict_rows if job.strict else max_rows) for job in self.jobs)
        return tuple(dict.fromkeys(sentence for sentences in told for sentence in sentences))

    def _beyond(self, job: JobCost, largest: int) -> Iterator[str]:
        measured = self._curves[job.model, job.shape].rows
        what = f"{job.model} {'×'.join(map(str, job.shape))}: calls of"
        if max(largest, job.rows) > measured[-1]:
            yield f"{what} more than {measured[-1]} rows weren't measured, taken as proportional to rows"
        if (largest if job.strict else job.rows) < measured[0]:
            yield f"{what} fewer than {measured[0]} rows weren't measured, taken as long as those of {measured[0]}"


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


def price(mix: Sequence[JobClass], tables: Mapping[str, StepTimes]) -> Costs:
    """Costs of a mix.

    Raises:
        ConfigurationError: a table lacks a model or a time that the mix needs.
    """
    assumed: dict[str, None] = {}
    curves: dict[tuple[str, Shape], Curve] = {}
    jobs = [_price(one, _table(tables, one.model), curves, assumed) for one in mix]
    used = [tables[model] for model in sorted({one.model for one in mix})]
    if any(table.round_s is None or table.move_s is None for table in used):
        assumed[f"a round takes {1e3 * ROUND_S:g} ms beside its call, a claim or an end {1e3 * MOVE_S:g} ms more"] = (
            None
        )
    round_s = max(ROUND_S if table.round_s is None else table.round_s for table in used)
    move_s = max(MOVE_S if table.move_s is None else table.move_s for table in used)
    return Costs(tuple(jobs), round_s, move_s, tuple(assumed), curves)


def _price(
    one: JobClass, table: StepTimes, curves: dict[tuple[str, Shape], Curve], assumed: dict[str, None]
) -> JobCost:
    times, ratio = _nearest(one, table)
    c, h, w = times.shape
    exact = ratio == 1.0
    shape = times.shape if exact else (c, *_latent(one, table))
    if not exact:
        assumed[f"{one.name}: scaled by {ratio:.2f}, its latent pixels over those of the measured {h}×{w}"] = None
    curves[one.model, shape] = _curve(one.model, times, ratio)
    request = one.request
    return JobCost(
        name=one.name,
        model=one.model,
        lane=one.priority,
        shape=shape,
        strict=one.determinism == "strict",
        images=one.num_images,
        steps=request.run_steps // one.num_images,
        rows=2 if request.guided else 1,
        encode_s=ratio * _need(times.encode_s.get(one.kind), one, "an encoding time for this kind of job"),
        decode_s=ratio * _need(times.decode_s, one, "a decoding time"),
        store_s=ratio * _need(table.store_s, one, "a storing time"),
    )


def _table(tables: Mapping[str, StepTimes], model: str) -> StepTimes:
    table = tables.get(model)
    if table is None or not any(times.calls for times in table.shapes):
        detail = f"model {model} has no step-time table yet: a worker that draws with it, or `latentd bench`, makes one"
        raise ConfigurationError(detail, field="model", value=model, bound=sorted(tables))
    return table


def _latent(one: JobClass, table: StepTimes) -> tuple[int, int]:
    return math.ceil(one.height / table.latent_factor), math.ceil(one.width / table.latent_factor)


def _nearest(one: JobClass, table: StepTimes) -> tuple[ShapeTimes, float]:
    """The measured shape that the class has once padded, and 1; else the nearest in area, and the ratio of areas."""
    h, w = _latent(one, table)
    measured = [times for times in table.shapes if times.calls]
    area = {times.shape: times.shape[1] * times.shape[2] for times in measured}
    same = [t for t in measured if 0 <= t.shape[1] - h < PADDING and 0 <= t.shape[2] - w < PADDING]
    if same:
        return min(same, key=lambda times: area[times.shape]), 1.0
    nearest = min(measured, key=lambda times: abs(math.log(area[times.shape] / (h * w))))
    return nearest, h * w / area[nearest.shape]


def _curve(model: str, times: ShapeTimes, ratio: float) -> Curve:
    rows = tuple(sorted(times.calls))
    seconds = tuple(times.calls[each] for each in rows)
    if min(seconds) <= 0:
        raise ConfigurationError(f"model {model}: a call in the table takes {min(seconds)} s, more than 0")
    return Curve(rows, seconds, ratio)


def _need(seconds: float | None, one: JobClass, what: str) -> float:
    if seconds is None:
        raise ConfigurationError(f"{one.name}: the step-time table lacks {what}", field="table", value=one.model)
    return seconds
