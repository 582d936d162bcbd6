"""Jobs whose time is over: a deadline that passed while they waited, or the retention of what has ended."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline

from contract.redis_keys import DEADLINES_KEY, JOBS_KEY, gone_key, job_key, keys_of, list_key
from core.clock import CLOCK
from core.errors import DeadlineMissed
from core.text import as_text
from jobs.commands import as_script
from jobs.end import Failed, Retention, end_waiting
from jobs.stored_job import read_stored, transact

PAGE = 500

log = structlog.get_logger()


def end_late(redis: Redis, retention: Retention) -> None:
    """End jobs whose deadline passed while they waited.

    Raises:
        RedisError: if Redis is away.
    """
    late: Any = redis.zrangebyscore(DEADLINES_KEY, 0, CLOCK.unix() * 1000)
    for job_id in map(as_text, late):
        transact(redis, job_id, partial(_end_late, redis=redis, retention=retention, job_id=job_id))


def _end_late(pipe: Pipeline, redis: Redis, retention: Retention, job_id: str) -> None:
    """A running job is ended by its worker, or queued again and then found here."""
    stored = read_stored(pipe, redis, job_id)
    pipe.multi()
    if not stored.unended:
        pipe.zrem(DEADLINES_KEY, job_id)
    elif stored.waiting:
        bound = stored.head.request.deadline_ms
        error = DeadlineMissed(f"deadline_ms {bound} passed while the job waited", field="deadline_ms", value=bound)
        end_waiting(pipe, stored, Failed(error.problem()), retention)
        log.warning("job ended without a worker", **stored.head.names, detail=error.detail)


def expired(redis: Redis, retention: Retention, now: float, start: int) -> tuple[list[str], int]:
    """Look at a page of the jobs made before `now` less the retention; those without a record, and how many it had.

    Raises:
        RedisError: if Redis is away.
    """
    newest = (now - retention.keep_s) * 1000
    found: Any = redis.zrangebyscore(JOBS_KEY, "-inf", newest, start=start, num=PAGE)
    ids = [as_text(one) for one in found]
    with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.exists(job_key(job_id))
        return [job_id for job_id, alive in zip(ids, pipe.execute(), strict=True) if not alive], len(ids)


def forget(redis: Redis, retention: Retention, job_id: str) -> None:
    """Take a job whose record has expired out of the lists; its 410 stays. No other job ever has its id.

    Raises:
        RedisError: if Redis is away.
    """
    owner = as_text(redis.get(gone_key(job_id)) or b"")
    with redis.pipeline() as pipe:
        pipe.zrem(JOBS_KEY, job_id)
        pipe.zrem(list_key(owner), job_id)
        pipe.delete(*keys_of(job_id))
        pipe.set(gone_key(job_id), "", ex=retention.gone_s, nx=True)
        as_script(pipe)
        pipe.execute()
