"""Finds jobs whose worker died and queues them again in front, without spending a retry.

RQ's own clean-up would do, but it isn't atomic (it can enqueue one abandoned job several times), and it leaves a job
that was popped but never claimed for up to 20 minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.utils import as_text, current_timestamp, now, parse_composite_key
from rq.worker_registration import clean_worker_registry

from contract.events import MARK, Returned
from contract.job import JobRecord
from contract.redis_keys import DEADLINES_KEY, UNSERVED_KEY, alone_key, events_key, job_key, unserved_field
from core.errors import DeadlineMissed, JobFailed, LatentdError
from jobs.end import Failed, Retention, put_in_front, queue_again, write_end
from jobs.stored_job import StoredJob, lane_queue, look
from jobs.transaction import transact
from workers.queue.leases import Leases
from workers.queue.process_identity import find_orphans

STUCK_S = 5.0  # a claim takes milliseconds
DEATHS_ALONE = 3
EXECUTION_KEY = "rq:execution:{}"
DEADLINES = "deadlines"  # the lease beside those of queues

log = structlog.get_logger()


class Reaper:
    """Cleans the registries of some queues, for the worker of this name."""

    def __init__(
        self,
        redis: Redis,
        queues: Iterable[Queue],
        retention: Retention,
        worker: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._queues = list(queues)
        self._retention = retention
        self._leases = Leases(redis, worker)
        self._clock = clock
        self._first_seen: dict[tuple[str, str], float] = {}  # (queue key, job id) in an intermediate list → when

    def turn(self) -> int:
        """What this worker is to do now: jobs of dead neighbours, which needn't wait for their lapse; and all else in
        queues that no other worker sweeps. How many jobs were queued again.

        Raises:
            RedisError: if Redis is away.
        """
        found = self._reap_neighbours()
        led = self._leases.take([*(queue.name for queue in self._queues), DEADLINES])
        found += sum(self.sweep(queue) for queue in self._queues if queue.name in led)
        if DEADLINES in led:
            self.end_late()
        return found

    def sweep(self, queue: Queue) -> int:
        """Clean a queue; how many jobs of dead workers were queued again. Any number of workers may do so at once.

        Jobs that killed three workers while nothing ran beside them end here.

        Raises:
            RedisError: if Redis is away.
        """
        found = sum(self._reap(queue, entry, orphaned=False) for entry in self._lapsed(queue))
        self._recover(queue)
        self._expire(queue)
        return found

    def _lapsed(self, queue: Queue) -> list[str]:
        """Executions whose heartbeats stopped.

        The registry's scores come from the clocks of workers; Redis, which lets the executions expire, has but one.
        """
        entries = self._started(queue)
        with self._redis.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.exists(EXECUTION_KEY.format(entry))
            return [entry for entry, alive in zip(entries, pipe.execute(), strict=True) if not alive]

    def _started(self, queue: Queue) -> list[str]:
        found: Any = self._redis.zrange(StartedJobRegistry(queue=queue).key, 0, -1)
        return [as_text(entry) for entry in found]

    def _reap_neighbours(self) -> int:
        orphans = find_orphans(self._redis)
        if not orphans:
            return 0
        entries = [(queue, entry) for queue in self._queues for entry in self._started(queue) if entry in orphans]
        return sum(self._reap(queue, entry, orphaned=True) for queue, entry in entries)

    def _reap(self, queue: Queue, entry: str, orphaned: bool) -> bool:
        """Queue the job again if the lapsed execution is the live one; in any case forget the execution."""
        job_id, execution_id = parse_composite_key(entry)
        execution = Execution(execution_id, job_id, connection=self._redis)

        def body(pipe: Pipeline) -> bool:
            seen = look(pipe, self._redis, job_id)
            started = seen.job.get_status(refresh=False) == JobStatus.STARTED
            live = started and seen.ours and seen.state.get("execution") == execution_id
            alone = pipe.get(alone_key(seen.state.get("worker", "")))
            still_lapsed = orphaned or not pipe.exists(execution.key)
            seen.job.origin = queue.name
            execution.worker_name = seen.state.get("worker", "")
            pipe.multi()
            if not still_lapsed:
                return False
            execution.delete(seen.job, pipe)
            return live and self._mourn(pipe, seen, queue, None if alone is None else as_text(alone))

        return transact(self._redis, (Job.key_for(job_id), job_key(job_id), execution.key), body)

    def _mourn(self, pipe: Pipeline, seen: StoredJob, queue: Queue, alone: str | None) -> bool:
        """Count the death of the worker; whether the job is queued again.

        While a job ran alone its death is nobody else's.
        """
        state, job_id = seen.state, seen.job.id
        deaths = int(state.get("deaths_alone", 0)) + 1
        if alone == job_id and deaths >= DEATHS_ALONE:
            pipe.xadd(events_key(job_id), {"type": MARK, "data": "{}", MARK: Returned(why="worker_died").to_json()})
            self._end(pipe, seen, _quarantined(seen.record, int(state.get("step", 0)), deaths))
            return False
        if alone in (None, job_id):
            pipe.hincrby(job_key(job_id), "deaths" if alone is None else "deaths_alone", 1)
        queue_again(pipe, seen.job, queue, Returned(why="worker_died"))
        log.warning("job of a dead worker queued again", **seen.record.names, worker=state.get("worker"), alone=alone)
        return True

    def end_late(self) -> None:
        """End jobs whose deadline passed while they waited.

        Raises:
            RedisError: if Redis is away.
        """
        late = self._redis.zrangebyscore(DEADLINES_KEY, 0, time.time() * 1000)
        for job_id in [as_text(one) for one in late if isinstance(one, bytes)]:
            transact(self._redis, (Job.key_for(job_id), job_key(job_id)), partial(self._end_one_late, job_id=job_id))

    def _end_one_late(self, pipe: Pipeline, job_id: str) -> None:
        """A running job is ended by its worker, or queued again and then found here."""
        seen = look(pipe, self._redis, job_id)
        pipe.multi()
        if not seen.ours:
            pipe.zrem(DEADLINES_KEY, job_id)
        elif seen.queued:
            queue = lane_queue(self._redis, seen.record.request.model, seen.record.request.priority)
            pipe.lrem(queue.key, 0, job_id)
            bound = seen.record.request.deadline_ms
            detail = f"deadline_ms {bound} passed while the job waited"
            self._end(pipe, seen, DeadlineMissed(detail, field="deadline_ms", value=bound))

    def _end(self, pipe: Pipeline, seen: StoredJob, error: LatentdError) -> None:
        seen.job.ended_at = now()
        write_end(pipe, seen.job, seen.record, Failed(error.problem()), self._retention, {})
        request = seen.record.request
        pipe.hincrby(UNSERVED_KEY, unserved_field(request.kind, request.model, request.priority, "failed"), 1)
        log.warning("job ended without a worker", **seen.record.names, detail=error.detail)

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
                put_in_front(pipe, queue, job_id)
            return queued and there

        if transact(self._redis, (rq_key, queue.intermediate_queue_key), body):
            log.warning("job popped but never started, queued again", job_id=job_id)

    def _expire(self, queue: Queue) -> None:
        """Forget what has been kept long enough; RQ itself never does so for cancelled jobs."""
        FinishedJobRegistry(queue=queue).cleanup()
        FailedJobRegistry(queue=queue).cleanup()
        self._redis.zremrangebyscore(CanceledJobRegistry(queue=queue).key, 0, current_timestamp())
        clean_worker_registry(queue)


def _quarantined(record: JobRecord, step: int, deaths: int) -> JobFailed:
    """What the job was and where it died, without its prompt."""
    request, steps = record.request, record.request.run_steps
    where = "before its first step" if step == 0 else f"after step {step} of {steps}" if step < steps else "in decoding"
    what = f"{request.kind} on {request.model}, {request.width}×{request.height}, {request.num_images} images"
    detail = f"quarantined: {deaths} workers died while nothing but this job ran ({what}, {request.sampler}), {where}"
    return JobFailed(detail, field="deaths", value=deaths, bound=DEATHS_ALONE - 1)
