"""Ending jobs on a client's wish: a waiting job at once, a running one by its worker."""

from __future__ import annotations

from redis import Redis
from redis.client import Pipeline

from contract.redis_keys import CANCELING_KEY, job_key
from jobs.end import Canceled, Retention, end_waiting
from jobs.stored_job import read_stored, transact


def cancel(redis: Redis, retention: Retention, job_id: str) -> str:
    """End a waiting job, ask the worker of a running one to, leave an ended one; the status that it then has.

    One transaction over the job's hash and RQ's; one that a worker's claim disturbs is made again.

    Raises:
        RedisError: if Redis is away.
    """

    def body(pipe: Pipeline) -> str:
        stored = read_stored(pipe, redis, job_id)
        pipe.multi()
        if not stored.unended:
            return stored.state.get("status", "canceled")  # an expired one has ended
        if stored.waiting:
            end_waiting(pipe, stored, Canceled(), retention)
            return "canceled"
        pipe.hset(job_key(job_id), "cancel", "1")
        pipe.sadd(CANCELING_KEY, job_id)
        return "running"

    return transact(redis, job_id, body)
