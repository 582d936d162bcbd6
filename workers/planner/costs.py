"""Seconds of everything that a simulated worker does, from the step-time tables that real workers measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from contract.base import Lane
from contract.measurements import Curve, JobWork, Shape, SizeTimes, StepTimes, predict
from core.errors import ConfigurationError
from workers.claim_policy import CLAIMS_A_ROUND
from workers.engine.turn_policy import DECODE_CHUNK
from workers.planner.mix import JobClass

ROUND_S, MOVE_S = 0.001, 0.003  # of the workers of docs/capacity.md, where a table (of `latentd bench`) has none


@dataclass(frozen=True, slots=True)
class JobCost:
    """What each job of a class takes. `encode_s` is per job, `decode_s` and `store_s` per image."""

    name: str
    model: str
    lane: Lane
    shape: Shape
    strict: bool
    images: int
    steps: int  # calls that its evaluations come to
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
        """Return the seconds of one UNet call."""
        return self._curves[model, shape].at(rows)

    def alone_s(self, job: JobCost) -> float:
        """From claim to result on an idle GPU, about: its images share calls and storing."""
        call_s = self.call_s(job.model, job.shape, job.images * job.rows)
        return job.encode_s + job.steps * (call_s + self.round_s) + job.images * job.decode_s + job.store_s

    def gpu_s(self, job: JobCost, rows: int) -> float:
        """Return GPU time of one job where every call has `rows` rows."""
        row_s = self.call_s(job.model, job.shape, rows) / rows
        return job.images * (job.steps * job.rows * row_s + job.decode_s) + job.encode_s

    def work_s(self, job: JobCost, rows: int) -> float:
        """Return the seconds of a worker's time, the rounds about the turns included."""
        turns = 1 + job.images * (job.steps * job.rows / rows + 1 / (1 if job.strict else DECODE_CHUNK))
        return self.gpu_s(job, rows) + turns * self.round_s + 2 * self.move_s

    def least_work_s(self, job: JobCost, max_rows: int, strict_rows: int) -> float:
        """Return that at the best size of calls: no fleet needs less."""
        if job.strict:
            return self.work_s(job, strict_rows)
        largest = max(max_rows, strict_rows if any(one.strict for one in self.jobs) else 1, job.rows)
        return min(self.work_s(job, rows) for rows in range(job.rows, largest + 1))

    def turn_s(self, max_rows: int) -> float:
        """Return the longest round with a turn in it."""
        calls = (self.call_s(job.model, job.shape, max(max_rows, job.rows)) for job in self.jobs)
        others = (max(job.encode_s, DECODE_CHUNK * job.decode_s) for job in self.jobs)
        return max(*calls, *others) + self.round_s + 2 * CLAIMS_A_ROUND * self.move_s

    def extrapolated(self, max_rows: int, strict_rows: int) -> tuple[str, ...]:
        """Return sentences on calls that a policy may make, of more or fewer rows than were measured."""
        sentences = (self._beyond(job, strict_rows if job.strict else max_rows) for job in self.jobs)
        return tuple(dict.fromkeys(sentence for some in sentences for sentence in some))

    def _beyond(self, job: JobCost, largest: int) -> Iterator[str]:
        measured = self._curves[job.model, job.shape].rows
        what = f"{job.model} {'×'.join(map(str, job.shape))}: calls of"
        if max(largest, job.rows) > measured[-1]:
            yield f"{what} more than {measured[-1]} rows weren't measured, taken as proportional to rows"
        if (largest if job.strict else job.rows) < measured[0]:
            yield f"{what} fewer than {measured[0]} rows weren't measured, taken as long as those of {measured[0]}"


def price(mix: Sequence[JobClass], tables: Mapping[str, StepTimes]) -> Costs:
    """Price a mix.

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
    times = _times(one, table)
    assumed.update(dict.fromkeys(_scaled(one, times)))
    curves[one.model, times.shape] = times.calls
    request = one.request
    return JobCost(
        name=one.name,
        model=one.model,
        lane=one.priority,
        shape=times.shape,
        strict=one.determinism == "strict",
        images=one.num_images,
        steps=JobWork.of(request).steps,
        rows=request.rows_per_call // one.num_images,
        encode_s=_need(times.encode_s, one, "an encoding time for this kind of job"),
        decode_s=_need(times.decode_s, one, "a decoding time"),
        store_s=_need(times.store_s, one, "a storing time"),
    )


def _scaled(one: JobClass, times: SizeTimes) -> Iterator[str]:
    """Yield sentences on what was taken from another size."""
    calls = times.sources["calls"]
    for what, source in times.sources.items():
        measured = f"{source.shape[1]}×{source.shape[2]}"
        if source.ratio != 1.0 and source is calls:
            yield f"{one.name}: scaled by {source.ratio:.2f}, its latent pixels over those of the measured {measured}"
        elif source != calls:
            yield f"{one.name}: {what} is that of the measured {measured}, scaled by {source.ratio:.2f}"


def _table(tables: Mapping[str, StepTimes], model: str) -> StepTimes:
    table = tables.get(model)
    if table is None or not any(times.calls for times in table.shapes):
        detail = f"model {model} has no step-time table yet: a worker that draws with it, or `latentd bench`, makes one"
        raise ConfigurationError(detail, field="model", value=model, bound=sorted(tables))
    return table


def _times(one: JobClass, table: StepTimes) -> SizeTimes:
    work = JobWork.of(one.request)
    times = predict(table, one.kind, work.width, work.height)
    assert times is not None  # `_table` saw calls
    least = min(times.calls.seconds)
    if least <= 0:
        raise ConfigurationError(f"model {one.model}: a call in the table takes {least} s, more than 0")
    return times


def _need(seconds: float | None, one: JobClass, what: str) -> float:
    if seconds is None:
        raise ConfigurationError(f"{one.name}: the step-time table lacks {what}", field="table", value=one.model)
    return seconds
