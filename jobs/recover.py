"""Jobs of dead workers: queued again, or ended once they have killed three workers on their own.

RQ's own clean-up never finds them (`worker.keep_from_rq`): it counts no deaths, and can enqueue one job several times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline
from rq.executions import Execution
from rq.job import JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.utils import current_timestamp, parse_composite_key
from rq.worker_registration import clean_worker_registry

from contract.base import LANES
from contract.events import TRACE, Returned
from contract.redis_keys import CARDS_KEY, events_key, isolated_key, job_key, serving_key, started_key
from core.clock import CLOCK
from core.errors import JobFailed
from core.text import as_text
from jobs.end import Canceled, Failed, Retention, end_waiting
from jobs.requeue import requeue
from jobs.stored_job import LaneQueue, StoredJob, lane_queue, read_stored, transact

DEATHS_ISOLATED = 3

log = structlog.get_logger()


def started_entries(redis: Redis, queue: LaneQueue) -> list[str]:
    """Read the queue's executions (`job id:execution id`) as RQ's registry names them.

    Raises:
        RedisError: if Redis is away.
    """
    found: Any = redis.zrange(started_key(queue.name), 0, -1)
    return [as_text(entry) for entry in found]


def abandoned(redis: Redis) -> list[LaneQueue]:
    """Queues that have executions, of models that no live worker serves: none sweeps them for its own sake.

    Raises:
        RedisError: if Redis is away.
    """
    models = map(as_text, redis.hkeys(CARDS_KEY))
    queues = [(model, lane_queue(redis, model, lane)) for model in models for lane in LANES]
    with redis.pipeline(transaction=False) as pipe:
        for model, queue in queues:
            pipe.zcount(serving_key(model), CLOCK.unix(), "+inf")
            pipe.zcard(started_key(queue.name))
        answers = pipe.execute()
    counts = zip(queues, answers[::2], answers[1::2], strict=True)
    return [queue for (_, queue), workers, entries in counts if entries and not workers]


def lapsed(redis: Redis, entries: Sequence[str]) -> list[str]:
    """Those of these executions whose heartbeats stopped.

    The registry's scores come from the clocks of workers; Redis, which lets the executions expire, has but one.

    Raises:
        RedisError: if Redis is away.
    """
    with redis.pipeline(transaction=False) as pipe:
        for entry in entries:
            job_id, execution_id = parse_composite_key(entry)
            pipe.exists(Execution(execution_id, job_id, connection=redis).key)
        return [entry for entry, alive in zip(entries, pipe.execute(), strict=True) if not alive]


def recover(redis: Redis, queue: LaneQueue, entry: str, retention: Retention, *, orphaned: bool) -> bool:
    """Queue a job again whose worker died, if the execution is the live one; in any case forget the execution.

    One that a client wants ended is ended at once: the next worker of its model may be long in coming. `orphaned`: its
    process is known to be gone. Otherwise it must have lapsed. Whether the job was queued again.

    Raises:
        RedisError: if Redis is away.
    """
    job_id, execution_id = parse_composite_key(entry)
    execution = Execution(execution_id, job_id, connection=redis)

    def body(pipe: Pipeline) -> bool:
        stored = read_stored(pipe, redis, job_id)
        started = stored.job.get_status(refresh=False) == JobStatus.STARTED
        live = started and stored.unended and stored.state.get("execution") == execution_id
        isolated = pipe.get(isolated_key(stored.state.get("worker", "")))
        still_lapsed = orphaned or not pipe.exists(execution.key)
        stored.job.origin = queue.name
        execution.worker_name = stored.state.get("worker", "")
        pipe.multi()
        if not still_lapsed:
            return False
        execution.delete(stored.job, pipe)
        if not live:
            return False
        if "cancel" in stored.state:
            _end(pipe, stored, Canceled(), retention)
            return False
        return _count_death(pipe, stored, queue, retention, None if isolated is None else as_text(isolated))

    return transact(redis, job_id, body, execution.key)


def _count_death(
    pipe: Pipeline, stored: StoredJob, queue: LaneQueue, retention: Retention, isolated: str | None
) -> bool:
    """Count the death of the worker; whether the job is queued again.

    While a job ran isolated its death is nobody else's.
    """
    job_id, deaths = stored.job.id, stored.deaths_isolated + 1
    if isolated == job_id and deaths >= DEATHS_ISOLATED:
        error = _quarantined(stored, deaths)
        _end(pipe, stored, Failed(error.problem()), retention)
        log.warning("job ended without a worker", **stored.head.names, detail=error.detail)
        return False
    if isolated in (None, job_id):
        pipe.hincrby(job_key(job_id), "deaths" if isolated is None else "deaths_alone", 1)
    requeue(pipe, stored.job, queue, Returned(why="worker_died"))
    names, worker = stored.head.names, stored.state.get("worker")
    log.warning("job of a dead worker queued again", **names, worker=worker, alone=isolated)
    return True


def _end(pipe: Pipeline, stored: StoredJob, ending: Failed | Canceled, retention: Retention) -> None:
    """End a job whose worker died, which its trace tells first."""
    note = Returned(why="worker_died").to_json()
    pipe.xadd(events_key(stored.job.id), {"type": TRACE, "data": "{}", TRACE: note})
    end_waiting(pipe, stored, ending, retention)


def _quarantined(stored: StoredJob, deaths: int) -> JobFailed:
    """What the job was and where it died, without its prompt."""
    record, step = stored.readable_record(), int(stored.state.get("step", 0))
    steps = int(stored.state.get("steps", 0))
    where = "before its first step" if step == 0 else f"after step {step} of {steps}" if step < steps else "in decoding"
    what = f"{stored.head.request.kind} on {stored.head.request.model}"
    if record is not None:
        request = record.request
        what += f", {request.width}×{request.height}, {request.num_images} images, {request.sampler}"
    detail = f"quarantined: {deaths} workers died while nothing but this job ran ({what}), {where}"
    return JobFailed(detail, field="deaths", value=deaths, bound=DEATHS_ISOLATED - 1)


def clean_registries(redis: Redis, queue: LaneQueue) -> None:
    """Forget what RQ has kept long enough; RQ itself never does so for cancelled jobs.

    Raises:
        RedisError: if Redis is away.
    """
    FinishedJobRegistry(queue=queue).cleanup()
    FailedJobRegistry(queue=queue).cleanup()
    redis.zremrangebyscore(CanceledJobRegistry(queue=queue).key, 0, current_timestamp())
    clean_worker_registry(queue)
