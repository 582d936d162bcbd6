"""Ending jobs on a client's wish: a waiting job at once, a running one by its worker; purging what has ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from redis import Redis, WatchError
from redis.client import Pipeline
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as RQJob
from rq.registry import CanceledJobRegistry
from rq.serializers import JSONSerializer

from contract.job import TERMINAL, JobRecord
from contract.redis_keys import (
    CANCELING_KEY,
    DEADLINES_KEY,
    ENDS_CHANNEL,
    JOBS_KEY,
    OUTBOX_KEY,
    SPENT_KEPT_S,
    UNSERVED_KEY,
    events_key,
    gone_key,
    job_key,
    keys_of,
    list_key,
    spent_key,
    state_key,
    unserved_field,
    work_key,
)
from core.errors import Conflict
from core.settings import Settings
from core.storage import Store, delete


def cancel(rq: Redis, settings: Settings, record: JobRecord) -> str:
    """End a waiting job, ask the worker of a running one to, leave an ended one; the status that it then has.

    Each try is one transaction over the job's hash and RQ's; one that a worker's claim disturbs is made again.
    """
    while True:
        with rq.pipeline() as pipe:
            try:
                return _try_cancel(pipe, rq, settings, record)
            except WatchError:
                continue


def _try_cancel(pipe: Pipeline, rq: Redis, settings: Settings, record: JobRecord) -> str:
    key = job_key(record.id)
    pipe.watch(key, RQJob.key_for(record.id))  # type: ignore[no-untyped-call]
    status = (_hget(pipe, key, "status") or b"canceled").decode()  # an expired one has ended
    if status in TERMINAL:
        return status
    job = _rq_job(rq, record.id)
    pipe.multi()
    if status == "queued":
        status = "canceled"
        _end_waiting(pipe, settings, record, job)
    else:
        pipe.hset(key, "cancel", "1")
        pipe.sadd(CANCELING_KEY, record.id)
    pipe.execute()
    return status


def _hget(pipe: Pipeline, key: str, field: str) -> bytes | None:
    value: Any = pipe.hget(key, field)  # a watching pipeline answers at once
    return None if value is None else bytes(value)


def _rq_job(rq: Redis, job_id: str) -> RQJob | None:
    try:
        return RQJob.fetch(job_id, connection=rq, serializer=JSONSerializer)
    except NoSuchJobError:
        return None


def _end_waiting(pipe: Pipeline, settings: Settings, record: JobRecord, job: RQJob | None) -> None:
    request, retention = record.request, settings.retention_s
    now = datetime.now(UTC)
    if job is not None and not job.is_canceled:
        job.cancel(pipeline=pipe)
        _bound_registry(pipe, job, now.timestamp(), retention)
    pipe.hset(job_key(record.id), mapping={"status": "canceled", "ended_at": now.isoformat(), "cancel": "1"})
    pipe.xadd(events_key(record.id), {"type": "canceled", "data": "{}"})
    pipe.publish(ENDS_CHANNEL, record.id)
    pipe.hdel(work_key(request.model, request.priority), record.id)
    pipe.zrem(DEADLINES_KEY, record.id)
    pipe.delete(state_key(record.id))
    pipe.hincrby(UNSERVED_KEY, unserved_field(request.kind, request.model, request.priority, "canceled"), 1)
    pipe.expire(job_key(record.id), retention)
    pipe.expire(events_key(record.id), retention)
    # The record names the owner only while it lasts: its 410 is written with the end.
    pipe.set(gone_key(record.id), record.owner, ex=retention + settings.gone_s)
    if request.webhook_url is not None:
        pipe.xadd(OUTBOX_KEY, {"job": record.id, "type": "canceled"})
    if record.charged_s:  # it is computed no further
        spent = spent_key(record.owner, record.created_at)
        pipe.incrbyfloat(spent, -record.charged_s)
        pipe.expire(spent, SPENT_KEPT_S)


def _bound_registry(pipe: Pipeline, job: RQJob, now: float, retention: int) -> None:
    """RQ keeps canceled jobs, and their ids in the registry, for ever; here both leave with the retention."""
    registry = CanceledJobRegistry(job.origin, connection=job.connection, serializer=JSONSerializer)
    pipe.expire(job.key, retention)
    pipe.zadd(registry.key, {job.id: now + retention})
    pipe.zremrangebyscore(registry.key, "-inf", now)


def check_ended(record: JobRecord, status: str) -> None:
    """Raises Conflict unless the job has ended."""
    if status not in TERMINAL:
        detail = f"job {record.id} is {status}; cancel it first, purge it when it has ended"
        raise Conflict(detail, field="purge", value=True, bound="an ended job")


def forget(rq: Redis, settings: Settings, record: JobRecord) -> None:
    """Remove every key of an ended job, here and in RQ, and leave its 410."""
    with rq.pipeline() as pipe:
        job = _rq_job(rq, record.id)
        if job is not None:
            with suppress(InvalidJobOperation):  # another purge was faster
                job.delete(pipeline=pipe)
        pipe.delete(*keys_of(record.id))
        pipe.zrem(JOBS_KEY, record.id)
        pipe.zrem(list_key(record.owner), record.id)
        pipe.srem(CANCELING_KEY, record.id)
        pipe.hdel(work_key(record.request.model, record.request.priority), record.id)
        pipe.set(gone_key(record.id), record.owner, ex=settings.gone_s)
        pipe.execute()


async def delete_objects(store: Store, job_id: str) -> None:
    """Delete the job's images and savepoints, of every execution, and its uploads."""
    for folder in ("images", "uploads", "states"):
        found = await store.list(f"{folder}/{job_id}").collect_async()
        if found:
            await asyncio.to_thread(delete, store, [item["path"] for item in found])
