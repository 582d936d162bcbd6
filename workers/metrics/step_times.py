"""The step-time table: what calls, encoding, decoding and storing take here, measured while working.

Tables of one model share a Redis hash, by kind of device; every worker writes the cells that it measured since its last
beat.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, KeyT

from contract.add_ons import CONTROL_ROW
from contract.measurements import LATENT_FACTOR, WRITTEN_AT, Shape, StepTimes, on_device, read_tables, shape_cell
from contract.redis_keys import cells_written_key, step_times_key
from contract.request import JobRequest
from core.text import as_text
from workers.engine.messages import Called, Finished, Outcome, Prepared
from workers.metrics.gpu import device_kind

REMEMBERED = 50  # measurements that an average is of: seconds of work, so that a busy moment isn't taken for the rule
SHAPES_KEPT = 16  # of each model, those used last
CELLS_KEPT = 1024  # of each model in Redis: far more than one worker writes; beyond it those measured longest ago go

# Readers that have the table of a moment ask for it again only once another was written.
# KEYS: the table, when each of its cells was written. ARGV: how many fields may stay, names and values.
# What stands beside the cells has no @ in its name. A cell that another release wrote has no moment: it goes first.
WRITE = f"""
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], '{WRITTEN_AT}', table.concat(now, '.'), unpack(ARGV, 2))
local function note(name, ...)
  if string.find(name, '@', 1, true) then redis.call('ZADD', KEYS[2], ...) end
end
for i = 2, #ARGV, 2 do note(ARGV[i], now[1], ARGV[i]) end
local over = redis.call('HLEN', KEYS[1]) - ARGV[1]
if over <= 0 then return end
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do note(name, 'NX', 0, name) end
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, over - 1)) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
"""


class Requested(Protocol):
    """Whatever knows the request of a job."""

    @property
    def request(self) -> JobRequest: ...


class Served(Protocol):
    """A model, as far as its table needs it."""

    @property
    def latent_factor(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


@dataclass(slots=True)
class Average:
    """A mean, once there are many a moving one. The first measurement warmed up, and doesn't count."""

    value: float = 0.0
    count: int = 0

    @property
    def known(self) -> bool:
        """Whether there is one that counts."""
        return self.count > 1

    def add(self, seconds: float) -> None:
        self.value += (seconds - self.value) / min(max(self.count, 1), REMEMBERED)
        self.count += 1


class StepTimer:
    """Averages, in seconds, of all that a worker does for some models."""

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._models = dict(models)
        self._device_kinds = {model: device_kind(loaded.device) for model, loaded in models.items()}
        self._shapes: OrderedDict[tuple[str, Shape], dict[str, Average]] = OrderedDict()
        self._round, self._move = Average(), Average()
        self._stores: dict[str, Average] = {}
        self._changed: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()  # the heartbeat takes what the loop measures

    def turned(self, outcomes: Sequence[Outcome], seconds: float, jobs: Mapping[str, Requested]) -> None:
        """Note a turn of the engine: one call, one preparation or one chunk of decoding, and what belongs to it."""
        warmed_up: set[tuple[str, Shape, str]] = set()  # the other images of a first chunk, too
        for model, shape, what, own_s in timed(outcomes, seconds, jobs):
            cell = model, shape, what
            if cell not in warmed_up and not self._measure(*cell, own_s):
                warmed_up.add(cell)
        for call in outcomes:
            if isinstance(call, Called) and call.strict:
                self._change(call.model, {"strict_rows": call.padded_rows})

    def rounded(self, seconds: float, moved: int) -> None:
        """Note what a round took beside the engine's turn, in which `moved` jobs were claimed or ended."""
        if moved == 0:
            self._round.add(seconds)
        elif self._round.known:
            self._move.add(max(0.0, seconds - self._round.value) / moved)
        for model in self._models:
            self._tell(model, "round", self._round)
            self._tell(model, "move", self._move)

    def stored(self, model: str, seconds: float) -> None:
        """Note that one image was encoded as a file and stored."""
        average = self._stores.setdefault(model, Average())
        average.add(seconds)
        self._tell(model, "store", average)

    def take(self) -> dict[str, dict[str, float]]:
        """Take the cells that changed since the last time, by model; for another thread."""
        with self._lock:
            changed, self._changed = self._changed, {}
        return changed

    def _measure(self, model: str, shape: Shape, what: str, seconds: float) -> bool:
        """Note what was measured; whether that counts."""
        key = (model, shape)
        cells = self._shapes.setdefault(key, {})
        self._shapes.move_to_end(key)
        average = cells.setdefault(what, Average())
        average.add(seconds)
        self._tell(model, shape_cell(shape, what), average)
        if len(self._shapes) > SHAPES_KEPT * len(self._models):
            self._shapes.popitem(last=False)
        return average.known

    def _tell(self, model: str, cell: str, average: Average) -> None:
        """Let a cell be published: not before it is known, over what this worker or others knew."""
        if average.known:
            self._change(model, {cell: average.value})

    def _change(self, model: str, cells: Mapping[str, float]) -> None:
        named = {on_device(cell, self._device_kinds[model]): value for cell, value in cells.items()}
        with self._lock:
            self._changed.setdefault(model, {LATENT_FACTOR: self._models[model].latent_factor}).update(named)


def timed(
    outcomes: Sequence[Outcome], seconds: float, jobs: Mapping[str, Requested]
) -> Iterator[tuple[str, Shape, str, float]]:
    """Return what a turn of the engine measured: model, latent shape, what was done and its seconds, of images each.

    A call costs its turn, with what the host does beside it; but its own seconds where the turn did something else, or
    was shorter, for a preview had waited for the device. On a GPU pictures are told turns after their decoding began.
    """
    for outcome in outcomes:
        if isinstance(outcome, Called):
            # As if there had been no ControlNet, which estimates add as rows.
            share = outcome.padded_rows / (outcome.padded_rows + CONTROL_ROW * outcome.control_rows)
            took = max(seconds, outcome.seconds) if outcome.own_turn else outcome.seconds
            yield outcome.model, outcome.shape, f"rows:{outcome.padded_rows}", took * share
        elif isinstance(outcome, Prepared | Finished) and (job := jobs.get(outcome.job_id)) is not None:
            what = "decode" if isinstance(outcome, Finished) else f"encode:{job.request.kind}"
            own_s = outcome.decode_s if isinstance(outcome, Finished) else outcome.seconds
            yield job.request.model, outcome.shape, what, own_s


def write_cells(pipe: Pipeline, model: str, cells: Mapping[str, float]) -> None:
    """Put cells of a model's table into Redis, with the pipeline's other commands."""
    if cells:
        keys: list[KeyT] = [step_times_key(model), cells_written_key(model)]
        values: list[EncodableT] = [part for name, value in cells.items() for part in (name, f"{value:.6g}")]
        pipe.eval(WRITE, len(keys), *keys, CELLS_KEPT, *values)


def read_published(redis: Redis, model: str) -> dict[str, StepTimes]:
    """Return the tables that workers have written of a model, by device kind; empty if none did."""
    fields = {as_text(name): as_text(value) for name, value in redis.hgetall(step_times_key(model)).items()}
    return read_tables(model, fields)
