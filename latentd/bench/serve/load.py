"""The load that every side gets: the same jobs at the same times, and what their clients waited."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from contract.card import ModelCard
from contract.request import JobRequest
from core.errors import ConfigurationError
from latentd.bench.report import Row
from latentd.bench.step_times import make_request
from workers.planner.answer import percentile
from workers.planner.mix import JobClass, MixEntry, arrivals, resolved

SHARES = (0.5, 0.7, 0.9)  # of the smaller capacity
STEPS = ((8, 4.0), (12, 3.0), (20, 2.0), (30, 1.0))  # and how often each is asked for
KINDS = (("txt2img", 3.0), ("inpaint", 2.0))


@dataclass(frozen=True, slots=True)
class Timed:
    """A job that comes `at` seconds after the begin."""

    at: float
    request: JobRequest


# Serves jobs at their times; returns what each client waited, in seconds, in the order of the jobs.
Play = Callable[[Sequence[Timed]], list[float]]


@dataclass(frozen=True, slots=True)
class Side:
    """One way to serve the load. `batches` is false where requests are answered one after another: such a side may be
    overloaded at the rates of the others, which are set by the smallest capacity of those that batch."""

    name: str
    play: Play
    batches: bool = True


def default_mix(card: ModelCard, size: int) -> tuple[MixEntry, ...]:
    """Make requests of mixed steps and of the tasks that the model has, `size` pixels a side."""
    entry = {"model": card.id, "width": size, "height": size}
    return tuple(
        MixEntry.model_validate(entry | {"kind": kind, "steps": steps, "weight": often * times})
        for kind, often in KINDS
        if kind in card.tasks
        for steps, times in STEPS
    )


def jobs(mix: Sequence[MixEntry], card: ModelCard, rate: float, count: int, seed: int) -> list[Timed]:
    """Draw the jobs of a Poisson process of `rate` a second; all at once where it is infinite."""
    classes = resolved(mix, {card.id: card})
    drawn = arrivals(classes, 1.0, count, seed)
    return [Timed(one.time / rate, _request(classes[one.index], card, number)) for number, one in enumerate(drawn)]


def _request(one: JobClass, card: ModelCard, number: int) -> JobRequest:
    fields = {name: getattr(one, name) for name in ("width", "height", "steps", "num_images")}
    guidance = {"guidance_scale": one.guidance_scale} if "guidance_scale" in card.fields else {}
    made = make_request(card, one.kind, number, **fields, **guidance)
    sized = {
        name: upload.model_copy(update={"width": one.width, "height": one.height})
        for name, upload in made.files.items()
    }
    return made.model_copy(update=sized)


def capacity(waited: Sequence[float]) -> float:
    """Return jobs a second while there is always a next one: of a run in which all come at once."""
    return len(waited) / max(waited)


@dataclass(frozen=True, slots=True)
class Question:
    """`count` jobs of a mix in each of `rounds`, at each of `shares` of the capacity; the backlog that measures
    capacity is as long. Every round draws other jobs."""

    mix: Sequence[MixEntry]
    card: ModelCard
    count: int
    seed: int
    rounds: int = 1
    shares: Sequence[float] = SHARES

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ConfigurationError(f"--jobs {self.count}: at least 2", field="jobs", value=self.count, bound=2)


def measure(sides: Sequence[Side], question: Question, on_run: Callable[[], None]) -> list[Row]:
    """Measure the capacity of every side, then what its clients wait at each share of the smallest of those that batch.

    In every round each side has its turn; a first run warms it up and counts for nothing.
    """
    for side in sides:
        side.play(jobs(question.mix, question.card, math.inf, max(2, question.count // 8), question.seed))
    turns = Turns(sides, question, on_run)
    most = {name: median(capacity(waited) for waited in runs) for name, runs in turns.at(math.inf).items()}
    base = min(most[side.name] for side in sides if side.batches)
    rows = []
    for share in question.shares:
        for name, runs in turns.at(share * base).items():
            rows.append(_row(share, share * base, name, most[name], [one for waited in runs for one in waited]))
    return rows


@dataclass(frozen=True, slots=True)
class Turns:
    """Every side in turn, in each round."""

    sides: Sequence[Side]
    question: Question
    on_run: Callable[[], None]

    def at(self, rate: float) -> dict[str, list[list[float]]]:
        """Return what the jobs of each round waited, by the side's name."""
        q = self.question
        waited: dict[str, list[list[float]]] = {side.name: [] for side in self.sides}
        for turn in range(q.rounds):
            load = jobs(q.mix, q.card, rate, q.count, q.seed + turn)
            for side in self.sides:
                waited[side.name].append(side.play(load))
                self.on_run()
        return waited


def runs_of(sides: int, question: Question) -> int:
    """Count how often `measure` calls `on_run`."""
    return sides * question.rounds * (1 + len(question.shares))


def _row(share: float, rate: float, name: str, most: float, waited: Sequence[float]) -> Row:
    return {
        "load": f"{share:.0%}",
        "side": name,
        "jobs/s": rate,
        "capacity, jobs/s": most,
        "mean, s": fmean(waited),
        "p50, s": median(waited),
        "p99, s": percentile(sorted(waited), 0.99),
    }
