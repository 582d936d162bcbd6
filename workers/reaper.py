"""Finds jobs whose worker died and queues them again in front, without spending a retry.

RQ's own clean-up would do, but it isn't atomic (it can enqueue one abandoned job several times), and it leaves a job
that was popped but never claimed for up to 20 minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog
from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import as_text, current_timestamp, parse_composite_key
from rq.worker_registration import clean_worker_registry

from service.contract import job_key
from workers.link import transact
from workers.publish import queue_again

STUCK_S = 5.0  # a claim takes milliseconds

log = structlog.get_logger()


class Reaper:
    """Cleans the registries of some queues; any number of workers may do so at once."""

    def __init__(self, redis: Redis, queues: Iterable[Queue], clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._queues = list(queues)
        self._clock = clock
        self._first_seen: dict[tuple[str, str], float] = {}  # (queue key, job id) in an intermediate list → when

    def sweep(self) -> int:
        """Clean every queue; how many jobs of dead workers were queued again.

        Raises:
            RedisError: if Redis is away.
        """
        found = 0
        for queue in self._queues:
            found += sum(self._reap(queue, entry) for entry in self._lapsed(queue))
            self._recover(queue)
            self._expire(queue)
        return found

    def _lapsed(self, queue: Queue) -> list[str]:
        registry = StartedJobRegistry(queue=queue)
        lapsed = self._redis.zrangebyscore(registry.key, 0, current_timestamp())
        return [as_text(entry) for entry in lapsed if isinstance(entry, bytes)]

    def _reap(self, queue: Queue, entry: str) -> bool:
        """Queue the job again if the lapsed execution is the live one; in any case forget the execution."""
        job_id, execution_id = parse_composite_key(entry)
        job = Job(job_id, connection=self._redis, serializer=JSONSerializer)
        job.origin = queue.name
        execution = Execution(execution_id, job_id, connection=self._redis)

        def body(pipe: Pipeline) -> bool:
            started = pipe.hget(job.key, "status") == JobStatus.STARTED.value.encode()
            live = pipe.hget(job_key(job_id), "execution") == execution_id.encode()
            still_lapsed = (pipe.zscore(StartedJobRegistry(queue=queue).key, entry) or 0) <= current_timestamp()
            pipe.multi()
            if not still_lapsed:
                return False
            execution.delete(job, pipe)
            if started and live:
                queue_again(pipe, job, queue)
            return started and live

        watches = (job.key, job_key(job_id), StartedJobRegistry(queue=queue).key)
        reaped = transact(self._redis, watches, body)
        if reaped:
            log.warning("job of a dead worker queued again", job_id=job_id)
        return reaped

    def _recover(self, queue: Queue) -> None:
        """Return ids that were popped but never claimed."""
        now, key = self._clock(), queue.intermediate_queue_key
        waiting = {(key, as_text(job_id)) for job_id in self._redis.lrange(key, 0, -1)}
        gone = [place for place in self._first_seen if place[0] == key and place not in waiting]
        for place in gone:
            del self._first_seen[place]
        for place in waiting:
            if now - self._first_seen.setdefault(place, now) > STUCK_S:
                self._return(queue, place[1])

    def _return(self, queue: Queue, job_id: str) -> None:
        rq_key = Job.key_for(job_id)

        def body(pipe: Pipeline) -> bool:
            queued = pipe.hget(rq_key, "status") == JobStatus.QUEUED.value.encode()
            there = pipe.lpos(queue.intermediate_queue_key, job_id) is not None
            pipe.multi()
            pipe.lrem(queue.intermediate_queue_key, 0, job_id)
            if queued and there:
                pipe.lpush(queue.key, job_id)
            return queued and there

        if transact(self._redis, (rq_key, queue.intermediate_queue_key), body):
            log.warning("job popped but never started, queued again", job_id=job_id)

    def _expire(self, queue: Queue) -> None:
        """Forget what has been kept long enough; RQ itself never does so for cancelled jobs."""
        FinishedJobRegistry(queue=queue).cleanup()
        FailedJobRegistry(queue=queue).cleanup()
        self._redis.zremrangebyscore(CanceledJobRegistry(queue=queue).key, 0, current_timestamp())
        clean_worker_registry(queue)
