"""Backlogs of all lanes, read from Redis in one round trip and kept for a moment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis.asyncio import Redis

from contract.base import LANES, Lane, queue_name
from contract.measurements import WRITTEN_AT, JobWork, SizeTimes, StepTimes, read_tables
from contract.redis_keys import queue_key, serving_key, step_times_key, work_key
from core.clock import CLOCK
from core.single_flight import SingleFlight
from service.admission.estimates import Backlog, Fleet, Size, work_seconds

# For a gateway, backlogs take no more than 2 % of Redis' time, which counts a job in 0.1 to 0.4 µs and a worker in 0.3,
# nor of the gateway's own, which reads a cell of a table in 1.5 µs. Where all sizes differ, pricing jobs is slow.
EACH_S, EACH_CELL_S = 20e-6, 75e-6
SLOW_S, SLOW_KEPT = 1e-3, 50  # pricing that took longer is kept for that many times as long
AS_BEFORE = "as before"  # for the moment when the step times were written: they aren't asked for

# KEYS: step times, the lane's queue, live workers, work of the lanes that go first, the asked one last.
# ARGV: now, the moment when the step times that the gateway has were written. Equal work is counted, not repeated.
_BACKLOG = f"""
local function flat(counts)
  local list = {{}}
  for name, count in pairs(counts) do list[#list + 1] = name; list[#list + 1] = count end
  return list
end
local work, jobs = {{}}, 0
for i = 4, #KEYS do
  local each = redis.call('HVALS', KEYS[i])
  jobs = #each
  for _, one in ipairs(each) do work[one] = (work[one] or 0) + 1 end
end
local workers = {{}}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[1], '+inf')) do
  local kind = string.match(member, '@(.*)') or ''
  workers[kind] = (workers[kind] or 0) + 1
end
local cells = false
if ARGV[2] ~= '{AS_BEFORE}' and (redis.call('HGET', KEYS[1], '{WRITTEN_AT}') or '') ~= ARGV[2] then
  cells = redis.call('HGETALL', KEYS[1])
end
return {{cells, redis.call('LLEN', KEYS[2]), flat(workers), jobs, flat(work)}}
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
    """Backlogs of all lanes. Adding up a long one isn't free: it is kept for EACH_S a job and worker."""

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
        lanes: Sequence[Lane] = LANES if lane == "bulk" else ("interactive",)
        keys = [step_times_key(model), queue_key(queue_name(model, lane)), serving_key(model)]
        keys += [work_key(model, each) for each in lanes]
        tables = self._tables.setdefault(model, KnownTables())
        answer: Any = await self._script(keys, [CLOCK.unix(), tables.newest()])
        cells, queued, workers, jobs, work = answer
        if cells is not None:
            tables.read(model, _pairs(cells))
        fleet = Fleet(tables.tables, {kind: int(n) for kind, n in _pairs(workers).items()}, tables.known)
        began_s = time.thread_time()
        counts = {JobWork.parse(text): int(count) for text, count in _pairs(work).items()}
        backlog = Backlog(fleet, work_seconds(fleet, counts), jobs, queued)
        self._keep(model, lane, backlog, time.thread_time() - began_s)
        return backlog

    def _keep(self, model: str, lane: Lane, backlog: Backlog, spent_s: float) -> None:
        kept_s = max(EACH_S * (backlog.jobs + backlog.fleet.count), SLOW_KEPT * spent_s if spent_s > SLOW_S else 0.0)
        self._kept[model, lane] = (time.monotonic() + kept_s, backlog)


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
