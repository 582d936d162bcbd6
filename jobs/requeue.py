"""Jobs back into their queue, in front and without a retry spent."""

from __future__ import annotations

from redis import Redis
from redis.client import Pipeline
from rq.job import Job, JobStatus
from rq.utils import utcformat

from contract.events import TRACE, Returned
from contract.redis_keys import RETRIES_KEY, WAKES, events_key, job_key, wake_key
from core.clock import CLOCK
from jobs.stored_job import LaneQueue, transact


def requeue(pipe: Pipeline, job: Job, queue: LaneQueue, returned: Returned) -> None:
    """Put a started job in front of its queue. Our started_at stays: that is when it first started."""
    job.set_status(JobStatus.QUEUED, pipeline=pipe)
    pipe.hset(job.key, mapping={"enqueued_at": utcformat(CLOCK.now()), "started_at": "", "worker_name": ""})
    _put_in_front(pipe, queue, job.id)
    pipe.hset(job_key(job.id), "status", "queued")
    pipe.xadd(events_key(job.id), {"type": TRACE, "data": "{}", TRACE: returned.to_json()})
    pipe.hdel(job_key(job.id), "execution", "worker")
    pipe.hincrby(RETRIES_KEY, returned.why, 1)


def requeue_unclaimed(redis: Redis, queue: LaneQueue, job_id: str) -> bool:
    """Return an id that was popped but never claimed; False if its job has started or ended meanwhile.

    Raises:
        RedisError: if Redis is away.
    """

    def body(pipe: Pipeline) -> bool:
        queued = pipe.hget(Job.key_for(job_id), "status") == JobStatus.QUEUED.value.encode()
        there = pipe.lpos(queue.intermediate_queue_key, job_id) is not None
        pipe.multi()
        pipe.lrem(queue.intermediate_queue_key, 0, job_id)
        if queued and there:
            _put_in_front(pipe, queue, job_id)
        return queued and there

    return transact(redis, job_id, body, queue.intermediate_queue_key)


def _put_in_front(pipe: Pipeline, queue: LaneQueue, job_id: str) -> None:
    """Of its queue, and wake a worker that waits for one."""
    pipe.lpush(queue.key, job_id)
    pipe.rpush(wake_key(queue.name), "")
    pipe.ltrim(wake_key(queue.name), -WAKES, -1)
