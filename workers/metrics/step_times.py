"""The step-time table: what calls, encoding, decoding and storing take here, measured while working.

Cells of one model share a Redis hash; every worker writes those that it measured since its last beat.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, KeyT

from contract.base import Kind
from contract.measurements import ShapeTimes, StepTimes
from contract.redis_keys import step_times_key
from contract.request import JobRequest
from core.text import as_text
from workers.engine.messages import Called, Finished, Outcome, Prepared
from workers.engine.scheduler import Shape

REMEMBERED = 50  # measurements that an average is of: seconds of work, so that a busy moment isn't taken for the rule
SHAPES_KEPT = 16  # of each model, those used last
CELLS_KEPT = 1024  # of each model in Redis: far more than one worker writes; beyond it the hash starts anew

WRITE = """
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) then redis.call('DEL', KEYS[1]) end
return redis.call('HSET', KEYS[1], unpack(ARGV, 2))
"""


class Requested(Protocol):
    """Whatever knows the request of a job."""

    @property
    def request(self) -> JobRequest: ...


@dataclass(slots=True)
class Average:
    """A mean, once there are many a moving one. The first measurement counts until there is another: it warmed up."""

    value: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.value += (seconds - self.value) / min(max(self.count, 1), REMEMBERED)
        self.count += 1


class StepTimer:
    """Averages, in seconds, of all that a worker does for some models."""

    def __init__(self, models: Sequence[str]) -> None:
        self._models = tuple(models)
        self._shapes: OrderedDict[tuple[str, str], dict[str, Average]] = OrderedDict()
        self._round, self._move = Average(), Average()
        self._stores: dict[str, Average] = {}
        self._changed: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()  # the heartbeat takes what the loop measures

    def turned(self, outcomes: Sequence[Outcome], seconds: float, jobs: Mapping[str, Requested]) -> None:
        """A turn of the engine: one call, one preparation or one chunk of decoding, and what belongs to it."""
        finished = sum(isinstance(outcome, Finished) for outcome in outcomes)
        for outcome in outcomes:
            if isinstance(outcome, Called):
                self._measure(outcome.model, outcome.shape, f"rows:{outcome.padded_rows}", seconds)
            elif isinstance(outcome, Prepared | Finished) and (job := jobs.get(outcome.job_id)) is not None:
                what = "decode" if isinstance(outcome, Finished) else f"encode:{job.request.kind}"
                self._measure(job.request.model, outcome.shape, what, seconds / (finished or 1))

    def rounded(self, seconds: float, moved: int) -> None:
        """What a round took beside the engine's turn, in which `moved` jobs were claimed or ended."""
        if moved == 0:
            self._round.add(seconds)
        elif self._round.count:
            self._move.add(max(0.0, seconds - self._round.value) / moved)
        averages = {"round": self._round, "move": self._move}
        for model in self._models:
            self._change(model, {what: average for what, average in averages.items() if average.count})

    def stored(self, model: str, seconds: float) -> None:
        """One image was encoded as a file and stored."""
        average = self._stores.setdefault(model, Average())
        average.add(seconds)
        self._change(model, {"store": average})

    def take(self) -> dict[str, dict[str, float]]:
        """Cells that changed since the last time, by model; for another thread."""
        with self._lock:
            changed, self._changed = self._changed, {}
        return changed

    def _measure(self, model: str, shape: Shape, what: str, seconds: float) -> None:
        name = "x".join(map(str, shape))
        cells = self._shapes.setdefault((model, name), {})
        self._shapes.move_to_end((model, name))
        average = cells.setdefault(what, Average())
        average.add(seconds)
        self._change(model, {f"{name}:{what}": average})
        if len(self._shapes) > SHAPES_KEPT * len(self._models):
            self._shapes.popitem(last=False)

    def _change(self, model: str, cells: Mapping[str, Average]) -> None:
        with self._lock:
            self._changed.setdefault(model, {}).update({name: average.value for name, average in cells.items()})


def write_cells(pipe: Pipeline, model: str, cells: Mapping[str, float]) -> None:
    """Put cells of a model's table into Redis, with the pipeline's other commands."""
    if cells:
        keys: list[KeyT] = [step_times_key(model)]
        values: list[EncodableT] = [part for name, value in cells.items() for part in (name, f"{value:.6g}")]
        pipe.eval(WRITE, 1, *keys, CELLS_KEPT, *values)


def read_cells(redis: Redis, model: str) -> dict[str, float]:
    """What workers have written of a model; empty if none did."""
    return {as_text(name): float(value) for name, value in redis.hgetall(step_times_key(model)).items()}


def step_times(model: str, latent_factor: int, cells: Mapping[str, float]) -> StepTimes:
    """The table that these cells make up."""
    names = sorted({name.partition(":")[0] for name in cells if ":" in name})
    shapes = tuple(_shape_times(name, cells) for name in names)
    others = {f"{what}_s": cells.get(what) for what in ("store", "round", "move")}
    return StepTimes(model=model, latent_factor=latent_factor, shapes=shapes, **others)


def _shape_times(name: str, cells: Mapping[str, float]) -> ShapeTimes:
    own = {cell.removeprefix(f"{name}:"): value for cell, value in cells.items() if cell.startswith(f"{name}:")}
    calls = {int(what.removeprefix("rows:")): value for what, value in own.items() if what.startswith("rows:")}
    encode: dict[Kind, float] = {
        what.removeprefix("encode:"): value  # type: ignore[misc]  # pydantic checks the kind
        for what, value in own.items()
        if what.startswith("encode:")
    }
    c, h, w = map(int, name.split("x"))
    sorted_calls = dict(sorted(calls.items()))
    return ShapeTimes(shape=(c, h, w), calls=sorted_calls, encode_s=encode, decode_s=own.get("decode"))
