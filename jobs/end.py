"""The one transaction that ends a job, conditional on this execution still being the live one.

Our record, RQ's state and the terminal event change together or not at all, so that a job whose worker was taken for
dead and came back has exactly one published result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, FieldT
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import CanceledJobRegistry
from rq.utils import as_text, now, utcformat
from rq.worker.base import BaseWorker

from contract.events import MARK, Returned
from contract.job import JobRecord, JobResult
from contract.redis_keys import (
    CANCELING_KEY,
    DEADLINES_KEY,
    ENDS_CHANNEL,
    OUTBOX_KEY,
    RETRIES_KEY,
    WAKES,
    events_key,
    gone_key,
    job_key,
    preview_key,
    state_key,
    wake_key,
    work_key,
)
from core.errors import Problem
from jobs.run import JobRun
from jobs.transaction import transact

Standing: TypeAlias = Literal["live", "ended", "stale"]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Succeeded:
    result: JobResult
    status: Literal["succeeded"] = "succeeded"


@dataclass(frozen=True, slots=True)
class Failed:
    problem: Problem
    status: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Canceled:
    status: Literal["canceled"] = "canceled"


@dataclass(frozen=True, slots=True)
class HandedBack:
    """To the front of its queue, without a retry spent: another worker goes on with it."""

    status: Literal["queued"] = "queued"


End: TypeAlias = Succeeded | Failed | Canceled
Ending: TypeAlias = End | HandedBack


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds that an ended job stays, and its 410 after that."""

    keep_s: int
    gone_s: int


class Publisher:
    """Ends jobs of one worker, each alone."""

    def __init__(self, worker: BaseWorker, redis: Redis, retention: Retention) -> None:
        self._worker = worker
        self._redis = redis
        self._retention = retention

    def end(self, held: JobRun, ending: Ending) -> bool:
        """Write how `held` ended; False if another execution has the job by now and nothing was written.

        Safe to call again after a lost connection: an ending already written is recognised.

        Raises:
            RedisError: if Redis is away.
        """

        def body(pipe: Pipeline) -> bool:
            standing = _standing(pipe, held)
            pipe.multi()
            if standing == "live":
                self._write(pipe, held, ending)
            return standing != "stale"

        written = transact(self._redis, (held.job.key, job_key(held.job_id)), body)
        self._worker.executions.pop(held.execution.id, None)
        log.info("job ended" if written else "job lost to another execution", **held.names, status=ending.status)
        return written

    def _write(self, pipe: Pipeline, held: JobRun, ending: Ending) -> None:
        held.execution.delete(held.job, pipe)
        if isinstance(ending, HandedBack):
            queue_again(pipe, held.job, held.queue, Returned(why="handed_back"))
            return
        held.job.ended_at = now()
        self._count(pipe, held, ending)
        write_end(pipe, held.job, held.record, ending, self._retention, self._of_execution(held))

    def _count(self, pipe: Pipeline, held: JobRun, ending: End) -> None:
        """The worker's totals in `rq info`; a cancelled job is neither a success nor a failure."""
        if isinstance(ending, Succeeded):
            self._worker.increment_successful_job_count(pipeline=pipe)
        elif isinstance(ending, Failed):
            self._worker.increment_failed_job_count(pipeline=pipe)
        self._worker.increment_total_working_time(now() - held.execution.created_at, pipe)

    def _of_execution(self, held: JobRun) -> dict[str, Any]:
        execution = held.execution
        return {
            "worker_name": self._worker.name,
            "execution_id": execution.id,
            "execution_started_at": execution.created_at,
            "execution_ended_at": held.job.ended_at,
        }


def write_end(
    pipe: Pipeline, job: Job, record: JobRecord, ending: End, retention: Retention, execution: dict[str, Any]
) -> None:
    """RQ's and our end of a job; `execution` is what RQ tells of the one that ended, empty if none did."""
    _end_rq(pipe, job, ending, retention.keep_s, execution)
    _end_ours(pipe, record, ending, retention)


def _end_rq(pipe: Pipeline, job: Job, ending: End, ttl: int, execution: dict[str, Any]) -> None:
    job.result_ttl = job.failure_ttl = ttl
    if isinstance(ending, Canceled):
        job.set_status(JobStatus.CANCELED, pipeline=pipe)
        pipe.hset(job.key, "ended_at", utcformat(now()))
        CanceledJobRegistry(job.origin, job.connection, job_class=type(job)).add(job, ttl, pipe)
    elif isinstance(ending, Failed):
        job.set_status(JobStatus.FAILED, pipeline=pipe)
        job._handle_failure(ending.problem.detail, pipe, **execution)
    else:
        job._result = {"images": [image.id for image in ending.result.images]}
        job._handle_success(ttl, pipe, **execution)
    job.cleanup(ttl, pipeline=pipe, remove_from_queue=False)


def _end_ours(pipe: Pipeline, record: JobRecord, ending: End, retention: Retention) -> None:
    job_id, request = record.id, record.request
    changed: dict[FieldT, EncodableT] = {"status": ending.status, "ended_at": now().isoformat()}
    if isinstance(ending, Succeeded):
        changed |= {"result": ending.result.to_json(), "step": request.run_steps}
    elif isinstance(ending, Failed):
        changed["error"] = ending.problem.model_dump_json()
    pipe.hset(job_key(job_id), mapping=changed)
    pipe.hdel(work_key(request.model, request.priority), job_id)
    pipe.srem(CANCELING_KEY, job_id)
    pipe.zrem(DEADLINES_KEY, job_id)
    pipe.delete(preview_key(job_id), state_key(job_id))
    pipe.xadd(events_key(job_id), {"type": ending.status, "data": _data(ending)})
    pipe.publish(ENDS_CHANNEL, job_id)
    if request.webhook_url is not None:
        pipe.xadd(OUTBOX_KEY, {"job": job_id, "type": ending.status})
    pipe.expire(job_key(job_id), retention.keep_s)
    pipe.expire(events_key(job_id), retention.keep_s)
    # The record names the owner only while it lasts: its 410 is written with the end.
    pipe.set(gone_key(job_id), record.owner, ex=retention.keep_s + retention.gone_s)


def queue_again(pipe: Pipeline, job: Job, queue: Queue, mark: Returned) -> None:
    """Put a started job in front of its queue. Our started_at stays: that is when it first started."""
    job.set_status(JobStatus.QUEUED, pipeline=pipe)
    pipe.hset(job.key, mapping={"enqueued_at": utcformat(now()), "started_at": "", "worker_name": ""})
    put_in_front(pipe, queue, job.id)
    pipe.hset(job_key(job.id), "status", "queued")
    pipe.xadd(events_key(job.id), {"type": MARK, "data": "{}", MARK: mark.to_json()})
    pipe.hdel(job_key(job.id), "execution", "worker")
    pipe.hincrby(RETRIES_KEY, mark.why, 1)


def put_in_front(pipe: Pipeline, queue: Queue, job_id: str) -> None:
    """Of its queue, and wake a worker that waits for one."""
    pipe.lpush(queue.key, job_id)
    pipe.rpush(wake_key(queue.name), "")
    pipe.ltrim(wake_key(queue.name), -WAKES, -1)


def _standing(pipe: Pipeline, held: JobRun) -> Standing:
    """Whether this execution may write: RQ, our record and the heartbeat registry all still name it."""
    rq_status = pipe.hget(held.job.key, "status")
    status, execution = pipe.hmget(job_key(held.job_id), ["status", "execution"])
    if execution is None or as_text(execution) != held.execution.id:
        return "stale"
    if status != b"running":
        return "ended"
    beating = pipe.zscore(held.job.started_job_registry.key, held.execution.composite_key)
    return "live" if rq_status == b"started" and beating is not None else "stale"


def _data(ending: End) -> str:
    if isinstance(ending, Succeeded):
        return ending.result.to_json()
    return json.dumps({"error": ending.problem.model_dump()} if isinstance(ending, Failed) else {})
