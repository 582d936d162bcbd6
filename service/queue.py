"""Jobs into the queue: one transaction writes our record and RQ's job, so that neither exists without the other.

The transaction runs RQ's own unique-enqueue script beside ours; the existence of the job's id decides every race of
equal Idempotency-Keys. The record is there before any worker can see the job.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from rq import Queue, Retry
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.scripts import UNIQUE_ENQUEUE_SCRIPT, _build_hset_args
from rq.serializers import JSONSerializer

from latentd.errors import Conflict
from latentd.settings import Settings
from service.contract import (
    CONTRACT_VERSION,
    DEADLINES_KEY,
    JOB_FUNCTION,
    JOBS_KEY,
    SEEDS,
    JobRecord,
    JobRequest,
    JobWarning,
    Kind,
    events_key,
    gone_key,
    job_key,
    queue_name,
    work_key,
)

# Worker deaths never fail a job; deterministic errors end it at once without asking for a retry.
RETRIES = 1000

# KEYS: record, RQ's job, all jobs, work of the lane, events, tombstone, deadlines.
# ARGV: id, record, created ms, rows, steps, deadline in ms of Unix time or ''.
_CREATE = """
local record = redis.call('HGET', KEYS[1], 'record')
if record then return record end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'leaving' end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'status', 'queued', 'step', 0, 'steps', ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[4])
redis.call('DEL', KEYS[5], KEYS[6])
if ARGV[6] ~= '' then redis.call('ZADD', KEYS[7], ARGV[6], ARGV[1]) end
redis.call('XADD', KEYS[5], '*', 'type', 'queued', 'data', '{}')
return false
"""


@dataclass(frozen=True, slots=True)
class Created:
    """The job's record, and whether an earlier request with the same key had made it."""

    record: JobRecord
    replayed: bool


def new_id(kind: Kind, key: str | None, scope: str = "") -> str:
    """A random id, or the one that an Idempotency-Key stands for within its scope (API key) and endpoint."""
    if key is None:
        return uuid.uuid4().hex
    return hashlib.sha256("\0".join((scope, kind, key)).encode()).hexdigest()[:32]


def drawn_seed(job_id: str) -> int:
    """The seed of a request that names none: a function of the id, so that racing gateways agree."""
    return int.from_bytes(hashlib.sha256(f"seed {job_id}".encode()).digest()[:4], "big") % SEEDS


async def read_record(redis: AsyncRedis, job_id: str) -> JobRecord | None:
    text = await redis.hget(job_key(job_id), "record")
    return None if text is None else JobRecord.model_validate_json(text)


def replay(record: JobRecord, body_hash: str, key: str) -> Created:
    """The job of an earlier request with the same key.

    Raises:
        Conflict: that request had another body.
    """
    if record.body_hash != body_hash:
        detail = f"Idempotency-Key {key!r} was used with another body, by job {record.id}"
        raise Conflict(detail, field="Idempotency-Key", value=key, bound="one body a key")
    return Created(record, replayed=True)


async def create(
    redis: AsyncRedis,
    rq: Redis,
    settings: Settings,
    job_id: str,
    request: JobRequest,
    warnings: tuple[JobWarning, ...],
    body_hash: str,
    key: str | None,
) -> Created:
    """Write and enqueue the job in one transaction, or find the one that holds its id.

    Raises:
        Conflict: the id's holder was made from another body, or is being removed.
    """
    record = JobRecord(id=job_id, created_at=datetime.now(UTC), request=request, warnings=warnings, body_hash=body_hash)
    found = await _transact(redis, record, _rq_job(rq, settings, record))
    if found is None:
        return Created(record, replayed=False)
    if found == "leaving":
        raise Conflict(
            f"the earlier job of Idempotency-Key {key!r} is being removed", field="Idempotency-Key", value=key
        )
    return replay(JobRecord.model_validate_json(found), body_hash, key or "")


def queue_key(name: str) -> str:
    """RQ's list of waiting ids."""
    return f"{Queue.redis_queue_namespace_prefix}{name}"


def _rq_job(rq: Redis, settings: Settings, record: JobRecord) -> RQJob:
    request = record.request
    job = RQJob.create(
        JOB_FUNCTION,
        args=[CONTRACT_VERSION, record.id, request.arguments()],
        id=record.id,
        connection=rq,
        serializer=JSONSerializer,
        origin=queue_name(request.model, request.priority),
        description=f"{request.kind} {record.id}",
        status=JobStatus.QUEUED,
        timeout=-1,
        result_ttl=settings.retention_s,
        failure_ttl=settings.retention_s,
        retry=Retry(max=RETRIES),
    )
    job.enqueued_at = record.created_at
    return job


async def _transact(redis: AsyncRedis, record: JobRecord, job: RQJob) -> str | None:
    waiting = queue_key(job.origin)
    fields: list[Any] = _build_hset_args(job)  # type: ignore[no-untyped-call]
    async with redis.pipeline(transaction=True) as pipe:
        pipe.eval(_CREATE, 7, *_create_keys(record, job), *_create_values(record))
        pipe.sadd(Queue.redis_queues_keys, waiting)
        pipe.eval(UNIQUE_ENQUEUE_SCRIPT, 2, job.key, waiting, job.id, "R", -1, *fields)
        found, _, _ = await pipe.execute()
    return None if found is None else str(found)


def _create_keys(record: JobRecord, job: RQJob) -> list[str]:
    request = record.request
    work = work_key(request.model, request.priority)
    return [job_key(record.id), job.key, JOBS_KEY, work, events_key(record.id), gone_key(record.id), DEADLINES_KEY]


def _create_values(record: JobRecord) -> list[str | int]:
    request = record.request
    created_ms = int(record.created_at.timestamp() * 1000)
    deadline = "" if request.deadline_ms is None else created_ms + request.deadline_ms
    return [record.id, record.to_json(), created_ms, request.rows, request.run_steps, deadline]
