"""Step and image events, previews and cancellations of all job runs.

Steps that follow each other fast are told together, of all jobs in one round trip every TELL_S: an event each would be
half of what a busy Redis does, and clients see no difference. Events of an execution that is no longer the live one are
refused by Redis itself, in the script that writes them.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from redis import Redis

from contract.base import Wire
from contract.events import STEP_EVENTS_KEPT, TELL_S, EarlierStep, Kept, Preview, Previews, Shared
from contract.job import ImageInfo, StoredImage
from contract.redis_keys import CANCELING_KEY, events_key, job_key, preview_key, stored_field
from core.text import as_text
from jobs.run import JobRun
from workers.engine.messages import Share

PREVIEW_S = 300

# Events of many jobs. Answers for each its id, or nothing if the execution may not write any more. The HDEL changes
# nothing: a full Redis refuses a script whose first write asks for memory, and ends, which free some, come after these.
# KEYS: of each event the record, the stream and the previews.
# ARGV: of each execution, what the job has cost, type, data, trace, step, steps, previews, field and value of an image,
# old step events.
WRITE = f"""
local answers = {{}}
for i = 0, #KEYS / 3 - 1 do
  local record, stream, previews = unpack(KEYS, 3 * i + 1, 3 * i + 3)
  local at = 11 * i
  local execution, spent, type, data, trace, step, steps, shown, field, value, old = unpack(ARGV, at + 1, at + 11)
  local state = redis.call('HMGET', record, 'status', 'execution')
  local id = false
  if state[1] == 'running' and state[2] == execution then
    redis.call('HDEL', record, '')
    if step ~= '' then redis.call('HSET', record, 'step', step, 'steps', steps, 'spent_s', spent) end
    if shown ~= '' then redis.call('SET', previews, shown, 'EX', {PREVIEW_S}) end
    if field ~= '' then redis.call('HSET', record, field, value, 'spent_s', spent) end
    id = redis.call('XADD', stream, '*', 'type', type, 'data', data, 'trace', trace)
    for surplus in string.gmatch(old, '%S+') do redis.call('XDEL', stream, surplus) end
  end
  answers[i + 1] = id
end
return answers
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One event that waits to be written."""

    run: JobRun
    type: Literal["step", "image"]
    data: str
    note: Wire  # for the trace
    step: str = ""
    previews: str = ""
    image: tuple[str, str] = ("", "")  # field of the record, and its value


@dataclass(frozen=True, slots=True)
class News:
    """What a flush learned about the job runs."""

    canceled: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    """Jobs that another execution has."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that waits to be told."""

    step: int
    at: float
    shared: Shared

    def before(self, now: float) -> EarlierStep:
        """As it is noted beside a later one that is told now."""
        shared, ago_ms = self.shared, round(1000 * (now - self.at))
        return EarlierStep(
            self.step, ago_ms, shared.rows, shared.call_rows, shared.jobs, round(1000 * shared.call_s, 1)
        )


@dataclass(slots=True)
class Steps:
    """Those of a run, and whether previews came with them."""

    steps: list[Step] = field(default_factory=list)
    previewed: bool = False


class EventWriter:
    """Collects events of all runs; a write that fails keeps them for the next."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._write = redis.register_script(WRITE)
        self._clock = clock
        self._steps: dict[JobRun, Steps] = {}
        self._waiting: list[Event] = []
        self._told_at = -TELL_S

    def step(self, run: JobRun, step: int, previews: Mapping[int, bytes], shared: Shared) -> None:
        """Note that a step was taken, with previews of these images; `step` counts over all images of the job."""
        steps = self._steps.setdefault(run, Steps())
        steps.steps.append(Step(step, self._clock(), shared))
        steps.previewed = steps.previewed or bool(previews)
        for index, preview in previews.items():
            run.previews[index] = Preview(step=step, image=base64.b64encode(preview).decode())

    def image(self, run: JobRun, index: int, info: ImageInfo) -> None:
        """Note that image `index` was stored, behind the steps before it."""
        self._tell_steps()
        stored = StoredImage(execution=run.execution.id, info=info).to_json()
        kept = Kept(decode_s=run.decode_s, store_s=run.store_s)
        self._waiting.append(Event(run, "image", info.to_json(), kept, image=(stored_field(index), stored)))

    def forget(self, run: JobRun) -> None:
        """Drop what waits of a job that has ended."""
        self._steps.pop(run, None)
        self._waiting = [event for event in self._waiting if event.run is not run]

    def flush(self, job_ids: Collection[str]) -> News:
        """Ask which of the jobs a client wants ended; write what waits, if images do or the last time is TELL_S ago.

        Raises:
            RedisError: if Redis is away; everything is kept for the next flush.
        """
        ids = list(job_ids)
        if not ids:
            return News()
        wanted: Any = self._redis.smismember(CANCELING_KEY, ids)
        canceled = frozenset(job_id for job_id, each in zip(ids, wanted, strict=True) if each)
        due = self._waiting or self._clock() - self._told_at >= TELL_S
        return News(canceled, self.write() if due else frozenset())

    def write(self) -> frozenset[str]:
        """Write what waits; the jobs that another execution has.

        Raises:
            RedisError: if Redis is away; everything is kept for the next time.
        """
        self._tell_steps()
        if not self._waiting:
            return frozenset()
        old = {event.run: self._surplus(event.run) for event in self._waiting}
        trimmed = {run: len(surplus) for run, surplus in old.items()}
        values = [part for event in self._waiting for part in _values(event, old.pop(event.run, []))]
        keys = [key for event in self._waiting for key in _keys(event.run.job_id)]
        answers: Any = self._write(keys, values)
        self._told_at = self._clock()
        for run, count in trimmed.items():
            del run.step_ids[:count]
        return self._read(answers)

    def _tell_steps(self) -> None:
        """Make one event of each run's steps: it tells the newest, and its note the others."""
        now, told = self._clock(), self._steps
        self._steps = {}
        for run, waiting in told.items():
            *before, newest = waiting.steps
            note = newest.shared.model_copy(update={"before": tuple(step.before(now) for step in before)})
            data = json.dumps({"step": newest.step, "steps": run.steps})
            previews = Previews(newest=run.previews).to_json() if waiting.previewed else ""
            self._waiting.append(Event(run, "step", data, note, str(newest.step), previews))

    def _surplus(self, run: JobRun) -> list[str]:
        """Return ids of step events older than the newest 1,000; the other events are never trimmed."""
        coming = sum(event.run is run and event.type == "step" for event in self._waiting)
        return run.step_ids[: max(0, len(run.step_ids) + coming - STEP_EVENTS_KEPT)]

    def _read(self, answers: list[Any]) -> frozenset[str]:
        written, self._waiting = self._waiting, []
        lost = set()
        for event, answer in zip(written, answers, strict=True):
            if answer is None:
                lost.add(event.run.job_id)
            elif event.type == "step":
                event.run.step_ids.append(as_text(answer))
        return frozenset(lost)


def _keys(job_id: str) -> tuple[str, str, str]:
    return job_key(job_id), events_key(job_id), preview_key(job_id)


def _values(event: Event, old: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of one event, as WRITE reads them."""
    run, spent = event.run, f"{event.run.spent_s:.4f}"
    about = (run.execution.id, spent, event.type, event.data, event.note.to_json(), event.step, str(run.steps))
    return (*about, event.previews, *event.image, " ".join(old))


def shared_of(run: JobRun, share: Share) -> Shared:
    """Note for the trace what a step shared."""
    return Shared(
        rows=share.rows,
        call_rows=share.call_rows,
        jobs=share.jobs,
        call_s=round(share.call_s, 4),
        encode_s=round(run.encode_s, 4),
        denoise_s=round(share.denoise_s, 4),
        gpu_s=round(share.gpu_s, 4),
    )


def earlier_steps(redis: Redis, job_id: str) -> list[str]:
    """Read the ids of the step events that earlier executions of a job left in its stream.

    Raises:
        RedisError: if Redis is away.
    """
    entries: Any = redis.xrange(events_key(job_id))
    return [as_text(event_id) for event_id, fields in entries if fields[b"type"] == b"step"]
