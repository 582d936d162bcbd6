"""The claim of a job: it moves to the intermediate list and starts in one MULTI, only if it is still `queued`.

The guard is needed because a job can have been cancelled since, and because an id may stand in a queue twice. A crash
between the two leaves the id in the intermediate list, from where it returns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, FieldT
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import JobStatus
from rq.suspension import WORKERS_SUSPENDED
from rq.worker.base import WorkerStatus

from contract.base import CONTRACT_VERSION
from contract.common import Numerics
from contract.events import TRACE, Claimed
from contract.job import JobRecord
from contract.redis_keys import JOBS_KEY, events_key, job_key, refused_key, state_key, stored_field
from contract.stages import models_of
from core.clock import CLOCK
from core.text import as_text
from jobs.run import JobRun
from jobs.stored_job import LaneQueue, StoredJob, read_stored, transact
from jobs.worker import HEARTBEAT_TTL_S, BatchWorker, keep_from_rq

Refusal: TypeAlias = Literal["contract", "numerics", "models", "loras", "embeddings", "controlnets"]
RQ_STATUS = {"succeeded": JobStatus.FINISHED, "failed": JobStatus.FAILED, "canceled": JobStatus.CANCELED}

# One round trip, and never more than one job: the first that the worker hasn't refused of the first queue that has one.
# KEYS: RQ's sign of suspended workers; what the worker has refused; of each queue its waiting and intermediate lists.
# ARGV: since when a refusal counts.
POP = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local refused, since = redis.call('ZCOUNT', KEYS[2], ARGV[1], '+inf'), tonumber(ARGV[1])
for i = 3, #KEYS, 2 do
  for _, id in ipairs(redis.call('LRANGE', KEYS[i], 0, refused)) do
    local at = refused > 0 and redis.call('ZSCORE', KEYS[2], id)
    if not at or tonumber(at) < since then
      redis.call('RPUSH', KEYS[i + 1], id)
      redis.call('LREM', KEYS[i], 1, id)
      return {KEYS[i], id}
    end
  end
end
return false
"""

# A popped id back to its place by age, so that refusals change no order; 1 the first time. The first write needs no
# memory, for a full Redis; an answer that was lost has this done twice, or the reaper was there first: then there is
# nothing to move.
# KEYS: the intermediate and waiting lists; what the worker has refused; when jobs were made.
# ARGV: the id; now; how long the worker lives without a beat; before when refusals are of jobs long gone.
REFUSE = """
if redis.call('LREM', KEYS[1], 0, ARGV[1]) == 0 then return end
redis.call('LREM', KEYS[2], 0, ARGV[1])
local made, newer, at = tonumber(redis.call('ZSCORE', KEYS[4], ARGV[1]) or 0), false, 0
repeat
  local ids = redis.call('LRANGE', KEYS[2], at, at + 99)
  for _, id in ipairs(ids) do
    if tonumber(redis.call('ZSCORE', KEYS[4], id) or 0) > made then newer = id break end
  end
  at = at + 100
until newer or #ids == 0
if newer then redis.call('LINSERT', KEYS[2], 'BEFORE', newer, ARGV[1]) else redis.call('RPUSH', KEYS[2], ARGV[1]) end
local new = redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[3])
return new
"""
LOOK_AGAIN_S = 600.0  # at a job that was refused: a savepoint of other numerics may have expired
FORGET_S = 86_400.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a worker has that jobs may name beside their model: LoRAs and ControlNets by id, embeddings by name.

    `together` tells whether it can hold several models at once.
    """

    loras: Collection[str] = ()
    embeddings: Collection[str] = ()
    controlnets: Collection[str] = ()
    together: Callable[[Collection[str]], bool] = lambda models: len(models) == 1


class Claimer:
    """Claims jobs in the name of one worker."""

    def __init__(self, worker: BatchWorker, redis: Redis) -> None:
        self._worker = worker
        self._redis = redis
        self._pop = redis.register_script(POP)
        self._refuse = redis.register_script(REFUSE)
        self._refused = refused_key(worker.name)

    def pop(self, keys: Sequence[str]) -> tuple[str, str] | None:
        """Take an id out of the first of these queues that has one not refused of late; the queue's key and the id.

        Raises:
            RedisError: if Redis is away.
        """
        pairs = [part for key in keys for part in (key, IntermediateQueue.get_intermediate_queue_key(key))]
        since = CLOCK.unix() - LOOK_AGAIN_S
        popped: Any = self._pop([WORKERS_SUSPENDED, self._refused, *pairs], [since]) if pairs else None
        return None if popped is None else (as_text(popped[0]), as_text(popped[1]))

    def start(self, queue: LaneQueue, job_id: str, numerics: Numerics, holdings: Holdings) -> JobRun | None:
        """Start a popped job; `holdings` are the worker's.

        Returns None for one that is not to run, and for one that another worker has to run: it goes back to its place
        in the queue, where `pop` of this one passes over it.

        Raises:
            RedisError: if Redis is away; the job then returns by itself.
        """
        made: JobRun | None = None

        def body(pipe: Pipeline) -> JobRun | Refusal | None:
            nonlocal made
            stored = read_stored(pipe, self._redis, job_id)
            if made is not None and stored.state.get("execution") == made.execution.id:  # its answer was lost
                pipe.multi()
                return made
            record = stored.readable_record() if stored.queued else None
            refusal = _refusal(pipe, stored, record, numerics, holdings) if stored.queued else None
            pipe.multi()
            if refusal is not None:
                return refusal
            pipe.lrem(queue.intermediate_queue_key, 0, job_id)
            if record is None:
                _drop(pipe, stored)
                return None
            pipe.zrem(self._refused, job_id)
            made = self._start(pipe, queue, stored, _fixed(record, numerics))
            return made

        run = transact(self._redis, job_id, body)
        if isinstance(run, JobRun):
            self._worker.executions[run.execution.id] = run.execution
            return run
        if run is not None:
            self._leave(queue, job_id, run)
        return None

    def _leave(self, queue: LaneQueue, job_id: str, reason: Refusal) -> None:
        now = CLOCK.unix()
        keys = [queue.intermediate_queue_key, queue.key, self._refused, JOBS_KEY]
        if self._refuse(keys, [job_id, now, HEARTBEAT_TTL_S, now - FORGET_S]):
            log.warning("job left to another worker", job_id=job_id, reason=reason, contract=CONTRACT_VERSION)

    def _start(self, pipe: Pipeline, queue: LaneQueue, stored: StoredJob, record: JobRecord) -> JobRun:
        job, started = stored.job, CLOCK.now()
        execution = Execution.create(job, HEARTBEAT_TTL_S, pipeline=pipe, worker_name=self._worker.name)
        keep_from_rq(pipe, job, execution)
        job.prepare_for_execution(self._worker.name, pipeline=pipe)
        pipe.persist(job.key)
        self._worker.set_state(WorkerStatus.BUSY, pipeline=pipe)
        _mark_running(pipe, stored, record, execution, started.isoformat())
        return JobRun(
            job=job,
            queue=queue,
            execution=execution,
            request=record.request,
            record=record,
            started_at=datetime.fromisoformat(stored.state.get("started_at", started.isoformat())),
            canceled="cancel" in stored.state,
            resumed="started_at" in stored.state,
            steps=int(stored.state.get("steps", record.request.run_steps)),  # as the first execution counted them
            isolated=stored.suspect,
            shown=int(stored.state.get("step", 0)),
            earlier_gpu_s=stored.spent_s,
        )


def _mark_running(pipe: Pipeline, stored: StoredJob, record: JobRecord, execution: Execution, started_at: str) -> None:
    """Our side of the start; `started` is told once in a job's life, and its numerics are those of this execution."""
    changed: dict[FieldT, EncodableT] = {"status": "running", "execution": execution.id}
    changed["worker"] = execution.worker_name
    if record.request.numerics is not None:
        changed["numerics"] = record.request.numerics.to_json()
    note = Claimed(worker=execution.worker_name, execution=execution.id).to_json()
    if "started_at" in stored.state:
        pipe.xadd(events_key(record.id), {"type": TRACE, "data": "{}", TRACE: note})
    else:
        changed["started_at"] = started_at
        data = json.dumps({"started_at": started_at})
        pipe.xadd(events_key(record.id), {"type": "started", "data": data, TRACE: note})
    pipe.hset(job_key(record.id), mapping=changed)


def _fixed(record: JobRecord, numerics: Numerics) -> JobRecord:
    """A strict job runs with this worker's numerics, as long as anything that it computes is kept."""
    if record.request.determinism == "fast":
        return record
    return record.model_copy(update={"request": record.request.model_copy(update={"numerics": numerics})})


def _refusal(
    pipe: Pipeline, stored: StoredJob, record: JobRecord | None, numerics: Numerics, holdings: Holdings
) -> Refusal | None:
    """Say why another worker has to run a job."""
    if record is None:
        return "contract"
    if _foreign_numerics(pipe, stored, record, numerics):
        return "numerics"
    if not holdings.together(models_of(record.request)):
        return "models"
    if any(lora.id not in holdings.loras for lora in record.request.applied_loras):
        return "loras"
    if any(each.name not in holdings.embeddings for each in record.request.applied_embeddings):
        return "embeddings"
    controls = record.request.applied_controls
    return "controlnets" if any(control.id not in holdings.controlnets for control in controls) else None


def _foreign_numerics(pipe: Pipeline, stored: StoredJob, record: JobRecord, numerics: Numerics) -> bool:
    """A strict job of which something is kept can't change its numerics: equal bytes are promised.

    One that began elsewhere and left neither a savepoint nor an image begins anew, with any.
    """
    if stored.state.get("numerics") in (None, numerics.to_json()):
        return False
    shown = any(stored_field(index) in stored.state for index in range(record.request.num_images))
    return shown or bool(pipe.exists(state_key(record.id)))


def _drop(pipe: Pipeline, stored: StoredJob) -> None:
    """Not to be run: a duplicate, cancelled, ended or purged. RQ, if it thinks the job queued, is told the truth."""
    if stored.job.get_status(refresh=False) == JobStatus.QUEUED:
        ended = RQ_STATUS.get(stored.state.get("status", ""), JobStatus.CANCELED)
        pipe.hset(stored.job.key, "status", ended.value)
    log.info("claim dropped", job_id=stored.job.id, status=stored.state.get("status"))
