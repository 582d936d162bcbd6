"""The end of a job, one script: our record, RQ's state and the terminal event change together or not at all.

A running job is ended by its worker, if its execution still is the live one: a job whose worker was taken for dead and
came back has exactly one published result. A waiting job is ended by whoever finds that it shall not run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import structlog
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import NoScriptError
from redis.typing import EncodableT, FieldT
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry
from rq.utils import utcformat

from contract.base import queue_name
from contract.events import Returned
from contract.job import JobHead, JobResult
from contract.redis_keys import (
    CANCELING_KEY,
    DEADLINES_KEY,
    ENDED_CHANNEL,
    OUTBOX_KEY,
    SPENT_KEPT_S,
    UNSERVED_KEY,
    events_key,
    gone_key,
    idempotency_key,
    job_key,
    preview_key,
    queue_key,
    spent_key,
    state_key,
    unserved_field,
    work_key,
)
from core.clock import CLOCK
from core.errors import Problem
from core.settings import Settings
from core.text import as_text
from jobs.commands import RUN, flat
from jobs.requeue import requeue
from jobs.run import JobRun
from jobs.stored_job import StoredJob
from jobs.worker import BatchWorker

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

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.retention_s, settings.gone_s)


# Runs commands if an execution is the live one, which RQ, our record and the heartbeat registry all still name. Answers
# 'canceled' where it has to end so instead: RQ's own tools saw to that, or it goes back and a client wants it ended.
# KEYS: RQ's job, record, registry. ARGV: the execution, as the registry names it, the status to come, and the commands,
# each behind its length. What RQ writes of an end are its own commands, which no script of ours repeats.
_END = f"""{RUN}
local status, execution = unpack(redis.call('HMGET', KEYS[2], 'status', 'execution'))
if execution ~= ARGV[1] then return 'stale' end
if status ~= 'running' then return 'ended' end
local rq, wanted = redis.call('HGET', KEYS[1], 'status'), redis.call('HEXISTS', KEYS[2], 'cancel') == 0
if rq == 'canceled' and ARGV[3] ~= rq or ARGV[3] == 'queued' and not wanted then return 'canceled' end
if rq ~= 'canceled' and (rq ~= 'started' or not redis.call('ZSCORE', KEYS[3], ARGV[2])) then return 'stale' end
run(4)
return 'live'
"""
_END_SHA = hashlib.sha1(_END.encode(), usedforsecurity=False).hexdigest()


class Publisher:
    """Ends jobs of one worker, each alone."""

    def __init__(self, worker: BatchWorker, redis: Redis, retention: Retention) -> None:
        self._worker = worker
        self._redis = redis
        self._retention = retention

    def end(self, run: JobRun, ending: Ending) -> Ending | None:
        """Write how `run` ended. Answers and raises as `end_all`."""
        return self.end_all([(run, ending)])[0]

    def end_all(self, endings: Sequence[tuple[JobRun, Ending]]) -> list[Ending | None]:
        """Write how runs ended, in one round trip: as told, or canceled where somebody else has seen to that.

        None for one whose job another execution has by now.

        Safe to call again after a lost connection: an ending already written is recognised.

        Raises:
            RedisError: if Redis is away.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for run, ending in endings:
                pipe.evalsha(_END_SHA, 3, *self._arguments(run, ending))
            answers = pipe.execute(raise_on_error=False)
        return [self._ended(*each, answer) for each, answer in zip(endings, answers, strict=True)]

    def _ended(self, run: JobRun, ending: Ending, answer: Any) -> Ending | None:
        if isinstance(answer, NoScriptError):  # a new Redis, or one that was restarted
            answer = self._redis.eval(_END, 3, *self._arguments(run, ending))
        elif isinstance(answer, Exception):
            raise answer
        if (told := as_text(answer)) == "canceled":
            return self.end(run, Canceled())
        self._worker.executions.pop(run.execution.id, None)
        log.info("job lost to another execution" if told == "stale" else "job ended", **run.names, status=ending.status)
        return None if told == "stale" else ending

    def _arguments(self, run: JobRun, ending: Ending) -> list[EncodableT]:
        """Of the script: keys, the execution, and what it is to write."""
        with self._redis.pipeline() as pipe:
            self._write(pipe, run, ending)
            parts = list(flat(pipe))
        keys = (run.job.key, job_key(run.job_id), run.job.started_job_registry.key)
        return [*keys, run.execution.id, run.execution.composite_key, ending.status, *parts]

    def _write(self, pipe: Pipeline, run: JobRun, ending: Ending) -> None:
        run.execution.delete(run.job, pipe)
        if isinstance(ending, HandedBack):
            pipe.hset(job_key(run.job_id), "spent_s", f"{run.spent_s:.4f}")
            requeue(pipe, run.job, run.queue, Returned(why="handed_back"))
            return
        run.job.ended_at = CLOCK.now()
        self._count(pipe, run, ending)
        _end_in_rq(pipe, run.job, ending, self._retention.keep_s, self._of_execution(run))
        _end_here(pipe, run.record.head, ending, self._retention)
        _settle(pipe, run.record.head, run.spent_s)
        if isinstance(ending, Succeeded):
            pipe.hset(job_key(run.job_id), mapping={"step": run.steps, "steps": run.steps})

    def _count(self, pipe: Pipeline, run: JobRun, ending: End) -> None:
        """The worker's totals in `rq info`; a cancelled job is neither a success nor a failure."""
        if isinstance(ending, Succeeded):
            self._worker.increment_successful_job_count(pipeline=pipe)
        elif isinstance(ending, Failed):
            self._worker.increment_failed_job_count(pipeline=pipe)
        self._worker.increment_total_working_time(CLOCK.now() - run.execution.created_at, pipe)

    def _of_execution(self, run: JobRun) -> dict[str, Any]:
        execution = run.execution
        return {
            "worker_name": self._worker.name,
            "execution_id": execution.id,
            "execution_started_at": execution.created_at,
            "execution_ended_at": run.job.ended_at,
        }


def end_waiting(pipe: Pipeline, stored: StoredJob, ending: Failed | Canceled, retention: Retention) -> None:
    """End a job that no worker has, in the caller's transaction. Its owner pays what was computed of it, if any was."""
    head, job = stored.head, stored.job
    request = head.request
    queue = queue_name(request.model, request.priority)
    pipe.lrem(queue_key(queue), 0, head.id)
    if stored.in_rq:
        job.origin, job.ended_at = queue, CLOCK.now()
        _end_in_rq(pipe, job, ending, retention.keep_s, {})
    _end_here(pipe, head, ending, retention)
    pipe.hdel(job_key(head.id), "execution")  # a worker that comes back late has not ended it
    pipe.hincrby(UNSERVED_KEY, unserved_field(request.kind, request.model, request.priority, ending.status), 1)
    _settle(pipe, head, stored.spent_s)


def _settle(pipe: Pipeline, head: JobHead, spent_s: float) -> None:
    """Let the owner's budget have paid what the job has cost, in place of what was predicted of it."""
    owed_s = round(spent_s - head.charged_s, 3)
    if head.owner and owed_s:
        spent = spent_key(head.owner, head.created_at)
        pipe.incrbyfloat(spent, owed_s)
        pipe.expire(spent, SPENT_KEPT_S)


def _end_in_rq(pipe: Pipeline, job: Job, ending: End, ttl: int, execution: dict[str, Any]) -> None:
    """RQ's end; `execution` is what it tells of the one that ended, empty if none did."""
    job.result_ttl = job.failure_ttl = ttl
    if isinstance(ending, Canceled):
        job.set_status(JobStatus.CANCELED, pipeline=pipe)
        pipe.hset(job.key, "ended_at", utcformat(CLOCK.now()))
        registry = CanceledJobRegistry(job.origin, job.connection, job_class=type(job))
        registry.add(job, ttl, pipe)
        pipe.zremrangebyscore(registry.key, "-inf", int(CLOCK.unix()))  # RQ itself keeps the ids for ever
    elif isinstance(ending, Failed):
        job.set_status(JobStatus.FAILED, pipeline=pipe)
        job._handle_failure(ending.problem.detail, pipe, **execution)
    else:
        job._result = {"images": [image.id for image in ending.result.images]}
        job._handle_success(ttl, pipe, **execution)
    job.cleanup(ttl, pipeline=pipe, remove_from_queue=False)


def _end_here(pipe: Pipeline, head: JobHead, ending: End, retention: Retention) -> None:
    """Our end: state, events and outbox; the keys last as long as the job, and the tombstone longer."""
    job_id, request = head.id, head.request
    changed: dict[FieldT, EncodableT] = {"status": ending.status, "ended_at": CLOCK.now().isoformat()}
    if isinstance(ending, Succeeded):
        changed["result"] = ending.result.to_json()
    elif isinstance(ending, Failed):
        changed["error"] = ending.problem.model_dump_json()
    pipe.hset(job_key(job_id), mapping=changed)
    pipe.hdel(work_key(request.model, request.priority), job_id)
    pipe.srem(CANCELING_KEY, job_id)
    pipe.zrem(DEADLINES_KEY, job_id)
    pipe.delete(preview_key(job_id), state_key(job_id))
    pipe.xadd(events_key(job_id), {"type": ending.status, "data": _data(ending)})
    pipe.publish(ENDED_CHANNEL, job_id)
    if request.webhook_url is not None:
        pipe.xadd(OUTBOX_KEY, {"job": job_id, "type": ending.status})
    pipe.expire(job_key(job_id), retention.keep_s)
    pipe.expire(events_key(job_id), retention.keep_s)
    if head.key_digest:
        pipe.expire(idempotency_key(head.key_digest), retention.keep_s)
    # The record names the owner only while it lasts: its 410 is written with the end.
    pipe.set(gone_key(job_id), head.owner, ex=retention.keep_s + retention.gone_s)


def _data(ending: End) -> str:
    if isinstance(ending, Succeeded):
        return ending.result.to_json()
    return json.dumps({"error": ending.problem.model_dump()} if isinstance(ending, Failed) else {})
