"""Backlogs of all lanes, read from Redis in one round trip and kept for a moment."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis.asyncio import Redis

from contract.base import LANES, Lane, queue_name
from contract.measurements import WRITTEN_AT, JobWork, SizeTimes, StepTimes, read_tables
from contract.redis_keys import queue_key, serving_key, started_key, step_times_key, work_key
from core.clock import CLOCK
from core.single_flight import SingleFlight
from service.admission.estimates import Backlog, Fleet, Size, running_seconds, work_seconds

# For a gateway, backlogs take no more than 2 % of Redis' time, which counts a job that waits in 0.1 to 0.4 µs, one that
# runs in 1.2 and a worker in 0.3, nor of the gateway's own, which reads a cell of a table in 1.5 µs. Where all sizes
# differ, pricing jobs is slow.
EACH_S, EACH_RUNNING_S, EACH_CELL_S = 20e-6, 60e-6, 75e-6
SLOW_S, SLOW_KEPT = 1e-3, 50  # pricing that took longer is kept for that many times as long
AS_BEFORE = "as before"  # for the moment when the step times were written: they aren't asked for

# KEYS: step times, live workers; the queue, the executions and the work of each lane, the asked one first.
# ARGV: now, the moment when the step times that the gateway has were written. Equal work is counted, not repeated.
_BACKLOG = f"""
local function flat(counts)
  local list = {{}}
  for name, count in pairs(counts) do
    if count > 0 then list[#list + 1] = name; list[#list + 1] = count end
  end
  return list
end
local function work(lane)
  local waiting, running, seen = {{}}, {{}}, {{}}
  for _, one in ipairs(redis.call('HVALS', KEYS[lane + 2])) do waiting[one] = (waiting[one] or 0) + 1 end
  for _, member in ipairs(redis.call('ZRANGE', KEYS[lane + 1], 0, -1)) do
    local id = string.match(member, '[^:]*')
    local one = not seen[id] and redis.call('HGET', KEYS[lane + 2], id)
    seen[id] = true
    if one then waiting[one] = waiting[one] - 1; running[one] = (running[one] or 0) + 1 end
  end
  return {{flat(waiting), flat(running)}}
end
local workers = {{}}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], '+inf')) do
  local kind = string.match(member, '@(.*)') or ''
  workers[kind] = (workers[kind] or 0) + 1
end
local cells = false
if ARGV[2] ~= '{AS_BEFORE}' and (redis.call('HGET', KEYS[1], '{WRITTEN_AT}') or '') ~= ARGV[2] then
  cells = redis.call('HGETALL', KEYS[1])
end
local lanes = {{}}
for lane = 3, #KEYS, 3 do lanes[#lanes + 1] = work(lane) end
return {{cells, redis.call('LLEN', KEYS[3]), flat(workers), lanes}}
"""


@dataclass(slots=True)
class KnownTables:
    """A model's tables as they were read last; they are asked for again at `again_at`."""

    written_at: str = ""
    tables: Mapping[str, StepTimes] = field(default_factory=dict)
    known: dict[Size, dict[str, SizeTimes]] = field(default_factory=dict)  # what followed from them
    again_at: float = 0.0

    def newest(self) -> str:
        """What the script is to compare with."""
        return self.written_at if time.monotonic() >= self.again_at else AS_BEFORE

    def read(self, model: str, fields: Mapping[str, str]) -> None:
        self.written_at, self.tables = fields.get(WRITTEN_AT, ""), read_tables(model, fields)
        self.known = {}
        self.again_at = time.monotonic() + EACH_CELL_S * len(fields)


class Backlogs:
    """Backlogs of all lanes. Adding up a long one isn't free: the longer it is, the longer it is kept."""

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(_BACKLOG)
        self._tables: dict[str, KnownTables] = {}
        self._kept: dict[tuple[str, Lane], tuple[float, Backlog]] = {}  # until when
        self._flights: dict[tuple[str, Lane], SingleFlight[Backlog]] = {}

    async def of(self, model: str, lane: Lane) -> Backlog:
        """What stands before a new job, in one round trip."""
        until, kept = self._kept.get((model, lane), (0.0, None))
        if kept is None or time.monotonic() >= until:
            if (model, lane) not in self._flights:
                self._flights[model, lane] = SingleFlight(partial(self._read, model, lane))
            kept = await self._flights[model, lane].answer()
        return kept

    async def _read(self, model: str, lane: Lane) -> Backlog:
        lanes: Sequence[Lane] = (lane, *LANES[: LANES.index(lane)])
        keys = [step_times_key(model), serving_key(model)]
        for each in lanes:
            keys += [queue_key(queue_name(model, each)), started_key(queue_name(model, each)), work_key(model, each)]
        tables = self._tables.setdefault(model, KnownTables())
        answer: Any = await self._script(keys, [CLOCK.unix(), tables.newest()])
        cells, queued, workers, work = answer
        if cells is not None:
            tables.read(model, _pairs(cells))
        fleet = Fleet(tables.tables, {kind: int(n) for kind, n in _pairs(workers).items()}, tables.known)
        began_s = time.thread_time()
        found = [(_counts(waiting), _counts(running)) for waiting, running in work]
        backlog = _backlog(fleet, queued, found)
        counted_s = sum(EACH_S * waiting.total() + EACH_RUNNING_S * running.total() for waiting, running in found)
        self._keep((model, lane), backlog, counted_s, time.thread_time() - began_s)
        return backlog

    def _keep(self, lane: tuple[str, Lane], backlog: Backlog, counted_s: float, spent_s: float) -> None:
        kept_s = max(counted_s + EACH_S * backlog.fleet.count, SLOW_KEPT * spent_s if spent_s > SLOW_S else 0.0)
        self._kept[lane] = (time.monotonic() + kept_s, backlog)


def _backlog(fleet: Fleet, queued: int, lanes: Sequence[tuple[Counter[JobWork], Counter[JobWork]]]) -> Backlog:
    """From the work that waits and the work that runs, of the asked lane and then of those that go first."""
    (waiting, running), *others = lanes
    first = sum((each for each, _ in others), Counter[JobWork]())
    return Backlog(
        fleet=fleet,
        work_s=work_seconds(fleet, waiting),
        jobs=waiting.total() + running.total(),
        queued=queued,
        running=running_seconds(fleet, sum((each for _, each in others), running)),
        first_s=work_seconds(fleet, first),
        first_jobs=first.total(),
    )


def _counts(flat: Sequence[Any]) -> Counter[JobWork]:
    return Counter({JobWork.parse(text): int(count) for text, count in _pairs(flat).items()})


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
