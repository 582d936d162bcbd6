"""Step and image events, previews and cancellations of all job runs, in one round trip a turn.

Events of an execution that is no longer the live one are refused by Redis itself, in the script that writes them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis

from contract.base import Wire
from contract.events import STEP_EVENTS_KEPT, TRACE, Kept, Shared
from contract.job import ImageInfo, StoredImage
from contract.redis_keys import CANCELING_KEY, events_key, job_key, preview_key, stored_field
from core.text import as_text
from jobs.run import JobRun
from workers.engine.messages import Share

PREVIEW_S = 300

# Events of many jobs, and who is to be cancelled. Answers for each event its id, or nothing if the execution may not
# write any more; then for each id asked about 1 or 0.
# KEYS: jobs to be cancelled; of each event the record, the stream and the preview.
# ARGV: how many events; of each execution, type, data, trace, step, preview, field and value of an image, old step
# events; the ids asked about.
FLUSH = f"""
local answers, count = {{}}, tonumber(ARGV[1])
for i = 0, count - 1 do
  local record, stream, preview = KEYS[3 * i + 2], KEYS[3 * i + 3], KEYS[3 * i + 4]
  local execution, type, data, trace, step, picture, field, value, old = unpack(ARGV, 9 * i + 2, 9 * i + 10)
  local state = redis.call('HMGET', record, 'status', 'execution')
  local id = false
  if state[1] == 'running' and state[2] == execution then
    if step ~= '' then redis.call('HSET', record, 'step', step) end
    if picture ~= '' then redis.call('SET', preview, picture, 'EX', {PREVIEW_S}) end
    if field ~= '' then redis.call('HSET', record, field, value) end
    id = redis.call('XADD', stream, '*', 'type', type, 'data', data, 'trace', trace)
    for surplus in string.gmatch(old, '%S+') do redis.call('XDEL', stream, surplus) end
  end
  answers[i + 1] = id
end
for i = 9 * count + 2, #ARGV do
  answers[#answers + 1] = redis.call('SISMEMBER', KEYS[1], ARGV[i])
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
    preview: str = ""
    image: tuple[str, str] = ("", "")  # field of the record, and its value


@dataclass(frozen=True, slots=True)
class News:
    """What a flush learned about the job runs."""

    canceled: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    """Jobs that another execution has."""


class EventWriter:
    """Collects events of a turn; a flush that fails keeps them for the next."""

    def __init__(self, redis: Redis) -> None:
        self._flush = redis.register_script(FLUSH)
        self._waiting: list[Event] = []

    def step(self, run: JobRun, step: int, preview: bytes | None, shared: Shared) -> None:
        """Note that a step was taken; `step` counts over all images of the job."""
        data = json.dumps({"step": step, "steps": run.steps})
        picture = {"step": step, "image": base64.b64encode(preview).decode()} if preview else None
        preview_text = json.dumps(picture) if picture else ""
        self._waiting.append(Event(run, "step", data, shared, str(step), preview_text))

    def image(self, run: JobRun, index: int, info: ImageInfo) -> None:
        """Note that image `index` was stored."""
        stored = StoredImage(execution=run.execution.id, info=info).to_json()
        kept = Kept(decode_s=run.decode_s, store_s=run.store_s)
        self._waiting.append(Event(run, "image", info.to_json(), kept, image=(stored_field(index), stored)))

    def forget(self, run: JobRun) -> None:
        """Drop what waits of a job that has ended."""
        self._waiting = [event for event in self._waiting if event.run is not run]

    def flush(self, job_ids: Collection[str]) -> News:
        """Write what waits and ask which of the jobs a client wants ended.

        Raises:
            RedisError: if Redis is away; everything is kept for the next flush.
        """
        ids = list(job_ids)
        if not ids:
            return News()
        old = {event.run: self._surplus(event.run) for event in self._waiting}
        trimmed = {run: len(surplus) for run, surplus in old.items()}
        values = [part for event in self._waiting for part in _values(event, old.pop(event.run, []))]
        keys = [key for event in self._waiting for key in _keys(event.run.job_id)]
        answers: Any = self._flush([CANCELING_KEY, *keys], [len(self._waiting), *values, *ids])
        for run, count in trimmed.items():
            del run.step_ids[:count]
        return self._read(answers, ids)

    def _surplus(self, run: JobRun) -> list[str]:
        """Return ids of step events older than the newest 1,000; the other events are never trimmed."""
        coming = sum(event.run is run and event.type == "step" for event in self._waiting)
        return run.step_ids[: max(0, len(run.step_ids) + coming - STEP_EVENTS_KEPT)]

    def _read(self, answers: list[Any], ids: list[str]) -> News:
        written, self._waiting = self._waiting, []
        lost = set()
        for event, answer in zip(written, answers, strict=False):
            if answer is None:
                lost.add(event.run.job_id)
            elif event.type == "step":
                event.run.step_ids.append(as_text(answer))
        canceled = {job_id for job_id, wanted in zip(ids, answers[len(written) :], strict=True) if wanted}
        return News(frozenset(canceled), frozenset(lost))


def _keys(job_id: str) -> tuple[str, str, str]:
    return job_key(job_id), events_key(job_id), preview_key(job_id)


def _values(event: Event, old: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of one event, as FLUSH reads them."""
    about = (event.run.execution.id, event.type, event.data, event.note.to_json(), event.step, event.preview)
    return (*about, *event.image, " ".join(old))


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


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier executions of a job left in its stream: ids of step events, and the seconds that they cost."""

    step_ids: list[str]
    gpu_s: float


def earlier(redis: Redis, job_id: str) -> Earlier:
    """Read it.

    Raises:
        RedisError: if Redis is away.
    """
    entries = [(as_text(at), _text(fields)) for at, fields in redis.xrange(events_key(job_id)) or [] if at and fields]
    steps = [event_id for event_id, fields in entries if fields["type"] == "step"]
    return Earlier(steps, sum(_costs([fields for _, fields in entries]), 0.0))


def _text(fields: Mapping[bytes | str, bytes | str]) -> dict[str, str]:
    return {as_text(name): as_text(value) for name, value in fields.items()}


def _costs(events: Iterable[Mapping[str, str]]) -> Iterator[float]:
    """Of each execution: its newest notes are sums, a step's of encoding and calls, an image's of decoding."""
    calls_s = decoding_s = 0.0
    for fields in events:
        note = fields.get(TRACE, "")
        if fields["type"] == "step":
            shared = Shared.read(note)
            calls_s = shared.encode_s + shared.gpu_s
        elif fields["type"] == "image":
            decoding_s = Kept.read(note).decode_s
        elif '"execution"' in note:
            yield calls_s + decoding_s
            calls_s = decoding_s = 0.0
    yield calls_s + decoding_s
