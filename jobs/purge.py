"""Removing an ended job on a client's wish: its objects, then every key of it but the tombstone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis import Redis
from redis.client import Pipeline
from rq.exceptions import InvalidJobOperation

from contract.job import TERMINAL
from contract.redis_keys import CANCELING_KEY, JOBS_KEY, gone_key, idempotency_key, keys_of, list_key, work_key
from core.errors import Conflict
from core.storage import FOLDERS, Store, delete
from jobs.end import Retention
from jobs.stored_job import read_stored, transact


def check_ended(job_id: str, status: str) -> None:
    """Raises Conflict unless the job has ended, which then is for good."""
    if status not in TERMINAL:
        detail = f"job {job_id} is {status}; cancel it first, purge it when it has ended"
        raise Conflict(detail, field="purge", value=True, bound="an ended job")


def purge(redis: Redis, retention: Retention, job_id: str) -> None:
    """Remove every key of an ended job, here and in RQ, free its Idempotency-Key and leave its 410.

    Nothing happens to one that is gone.

    Raises:
        Conflict: it hasn't ended.
        RedisError: if Redis is away.
    """

    def body(pipe: Pipeline) -> None:
        stored = read_stored(pipe, redis, job_id)
        if "record" not in stored.state:
            return pipe.multi()
        check_ended(job_id, stored.state.get("status", ""))
        head = stored.head
        key = idempotency_key(head.key_digest)
        pipe.watch(key)  # type: ignore[no-untyped-call]
        holds_key = pipe.get(key) == job_id.encode()
        pipe.multi()
        if stored.in_rq:
            with suppress(InvalidJobOperation):  # it expired since: RQ looks again
                stored.job.delete(pipeline=pipe)
        pipe.delete(*keys_of(job_id), *([key] if holds_key else []))
        pipe.zrem(JOBS_KEY, job_id)
        pipe.zrem(list_key(head.owner), job_id)
        pipe.srem(CANCELING_KEY, job_id)
        pipe.hdel(work_key(head.request.model, head.request.priority), job_id)
        pipe.set(gone_key(job_id), head.owner, ex=retention.gone_s)

    transact(redis, job_id, body)


async def delete_objects(store: Store, job_id: str) -> None:
    """Delete the job's images and savepoints, of every execution, and its uploads.

    Raises:
        OSError, BaseError: the storage is away.
    """
    for folder in FOLDERS:
        found = await store.list(f"{folder}/{job_id}").collect_async()
        if found:
            await asyncio.to_thread(delete, store, [item["path"] for item in found])
