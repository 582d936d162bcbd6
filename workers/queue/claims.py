"""Guarded claims: a job leaves its queue by LMOVE and starts in one MULTI, only if it is still `queued`.

The guard is needed because a job can have been cancelled since, and because RQ's registry clean-up can enqueue one
abandoned job several times. A crash between the two leaves the id in the intermediate list, where the reaper finds it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, FieldT
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import as_text, now
from rq.worker.base import BaseWorker, WorkerStatus

from contract.base import CONTRACT_VERSION
from contract.events import MARK, Claimed
from contract.lanes import LANES
from contract.redis_keys import events_key, job_key, wake_key
from contract.request import JobRequest, Numerics
from jobs.run import JobRun
from jobs.stored_job import StoredJob, lane_queue, look
from jobs.transaction import transact
from workers.claim_policy import REST_S, ClaimOrder, ModelLane

HEARTBEAT_TTL_S = 15
REFUSED_PAUSE_S = 1.0
RQ_STATUS = {"succeeded": JobStatus.FINISHED, "failed": JobStatus.FAILED, "canceled": JobStatus.CANCELED}

# One round trip, and never more than one job: the first non-empty queue in the caller's order.
POP = """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
for i = 2, #KEYS, 2 do
  local id = redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'LEFT', 'RIGHT')
  if id then return {KEYS[i], id} end
end
return false
"""

log = structlog.get_logger()


class Claims:
    """Claims jobs of some models for one worker, interactive before bulk, the models in turn."""

    def __init__(
        self,
        worker: BaseWorker,
        redis: Redis,
        models: Sequence[str],
        numerics: Mapping[str, Numerics],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._redis = redis
        self._pop_first = redis.register_script(POP)
        self._numerics = numerics
        self._clock = clock
        self._order = ClaimOrder(list(models))
        queues = {(model, lane): lane_queue(redis, model, lane) for model in models for lane in LANES}
        self.queues: dict[str, Queue] = {queue.key: queue for queue in queues.values()}
        self._keys = {place: queue.key for place, queue in queues.items()}
        self._wakes = [wake_key(queue.name) for queue in queues.values()]
        self._refused: set[str] = set()  # told in the log
        self._passed: set[str] = set()  # refused since the last pause
        self._paused: dict[str, float] = {}  # queue key → until when

    def next(self, places: Collection[ModelLane]) -> JobRun | None:
        """The next job of one of these models and lanes, started and held by this worker; None if none waits.

        Raises:
            RedisError: if Redis is away; a job popped meanwhile returns by the reaper.
        """
        while (popped := self._pop(places)) is not None:
            key, job_id = popped
            held = self._take(self.queues[key], job_id)
            if held is not None:
                self._order.took(held.model)
                return held
        return None

    def rest(self) -> None:
        """Wait until a job comes into one of the queues, REST_S at most: one that no entry tells of is found then.

        Raises:
            RedisError: if Redis is away.
        """
        self._redis.blpop(self._wakes, timeout=REST_S)

    def _pop(self, places: Collection[ModelLane]) -> tuple[str, str] | None:
        keys = [self._keys[place] for place in self._order.of(places)]
        keys = [key for key in keys if self._paused.get(key, 0.0) <= self._clock()]
        pairs = [part for key in keys for part in (key, IntermediateQueue.get_intermediate_queue_key(key))]
        if not pairs:
            return None
        popped: Any = self._pop_first([WORKERS_SUSPENDED, *pairs])
        return None if popped is None else (as_text(popped[0]), as_text(popped[1]))

    def _take(self, queue: Queue, job_id: str) -> JobRun | None:
        def take(pipe: Pipeline) -> JobRun | None:
            seen = look(pipe, self._redis, job_id)
            pipe.multi()
            pipe.lrem(queue.intermediate_queue_key, 0, job_id)
            if not seen.queued:
                _drop(pipe, seen)
            elif seen.request is None or self._foreign_numerics(seen, seen.request):
                self._refuse(pipe, queue, seen)
            else:
                return self._start(pipe, queue, seen, seen.request)
            return None

        held = transact(self._redis, (Job.key_for(job_id), job_key(job_id)), take)
        if held is not None:
            self._worker.executions[held.execution.id] = held.execution
        return held

    def _start(self, pipe: Pipeline, queue: Queue, seen: StoredJob, request: JobRequest) -> JobRun:
        job, started = seen.job, now()
        execution = Execution.create(job, HEARTBEAT_TTL_S, pipeline=pipe, worker_name=self._worker.name)
        job.prepare_for_execution(self._worker.name, pipeline=pipe)
        pipe.persist(job.key)
        self._worker.set_state(WorkerStatus.BUSY, pipeline=pipe)
        self._mark_running(pipe, seen, request, execution, started.isoformat())
        return JobRun(
            job=job,
            queue=queue,
            execution=execution,
            request=request if request.determinism == "fast" else self._with_numerics(request),
            record=seen.record,
            started_at=datetime.fromisoformat(seen.state.get("started_at", started.isoformat())),
            canceled="cancel" in seen.state,
            resumed="started_at" in seen.state,
            isolated=seen.suspect,
            shown=int(seen.state.get("step", 0)),
        )

    def _mark_running(
        self, pipe: Pipeline, seen: StoredJob, request: JobRequest, execution: Execution, started_at: str
    ) -> None:
        """Our side of the start; `started` is told once in a job's life, and its numerics are fixed then."""
        changed: dict[FieldT, EncodableT] = {"status": "running", "execution": execution.id}
        changed["worker"] = self._worker.name
        if request.determinism == "strict":
            changed["numerics"] = self._numerics[request.model].to_json()
        mark = Claimed(worker=self._worker.name, execution=execution.id).to_json()
        if "started_at" in seen.state:
            pipe.xadd(events_key(seen.job.id), {"type": MARK, "data": "{}", MARK: mark})
        else:
            changed["started_at"] = started_at
            data = json.dumps({"started_at": started_at})
            pipe.xadd(events_key(seen.job.id), {"type": "started", "data": data, MARK: mark})
        pipe.hset(job_key(seen.job.id), mapping=changed)

    def _with_numerics(self, request: JobRequest) -> JobRequest:
        return request.model_copy(update={"numerics": self._numerics[request.model]})

    def _foreign_numerics(self, seen: StoredJob, request: JobRequest) -> bool:
        """A strict job that began elsewhere can't change its numerics: equal bytes are promised."""
        fixed = seen.state.get("numerics")
        return fixed is not None and Numerics.model_validate_json(fixed) != self._numerics[request.model]

    def _refuse(self, pipe: Pipeline, queue: Queue, seen: StoredJob) -> None:
        """Back to the end of the queue; once the whole queue came by, it rests a second rather than spin."""
        job_id = seen.job.id
        pipe.rpush(queue.key, job_id)
        if job_id in self._passed:
            self._passed.clear()
            self._paused[queue.key] = self._clock() + REFUSED_PAUSE_S
        else:
            self._passed.add(job_id)
        if job_id not in self._refused:
            self._refused.add(job_id)
            reason = "contract" if seen.request is None else "numerics"
            log.warning("job left to another worker", job_id=job_id, reason=reason, contract=CONTRACT_VERSION)


def _drop(pipe: Pipeline, seen: StoredJob) -> None:
    """Not to be run: a duplicate, cancelled, ended or purged. RQ, if it thinks the job queued, is told the truth."""
    if seen.job.get_status(refresh=False) == JobStatus.QUEUED:
        ended = RQ_STATUS.get(seen.state.get("status", ""), JobStatus.CANCELED)
        pipe.hset(seen.job.key, "status", ended.value)
    log.info("claim dropped", job_id=seen.job.id, status=seen.state.get("status"))
