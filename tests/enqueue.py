"""Puts jobs into the queue as the gateway does, for tests of the worker alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.typing import EncodableT, FieldT
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text

from contract.base import CONTRACT_VERSION, queue_name
from contract.events import TRACE
from contract.job import JOB_FUNCTION, JobRecord, JobResult
from contract.measurements import JobWork
from contract.redis_keys import DEADLINES_KEY, JOBS_KEY, LAYOUT_KEY, events_key, job_key, wake_key, work_key
from contract.request import REQUESTS, JobRequest, parse_request

RETENTION_S = 3600


def make_request(model: str = "tiny", **fields: Any) -> JobRequest:
    """A small txt2img request; `fields` change it."""
    values: dict[str, Any] = {
        "kind": "txt2img",
        "model": model,
        "prompt": "red heart",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 1.0,
        "sampler": "ddim",
        "seed": 7,
    }
    known = REQUESTS[fields.get("kind", "txt2img")].model_fields
    return parse_request({name: value for name, value in values.items() if name in known} | fields)


def open_queue(redis: Redis, request: JobRequest) -> Queue:
    """The RQ queue of a request's model and lane."""
    return Queue(queue_name(request.model, request.priority), connection=redis, serializer=JSONSerializer)


def enqueue(redis: Redis, job_id: str, request: JobRequest, *, version: int = CONTRACT_VERSION) -> Job:
    """Write the job's record, then enqueue it."""
    record = JobRecord(id=job_id, created_at=datetime.now(UTC), request=request)
    steps = request.steps * request.num_images
    with redis.pipeline() as pipe:
        state: dict[FieldT, EncodableT] = {"record": record.to_json(), "status": "queued", "step": 0, "steps": steps}
        pipe.hset(job_key(job_id), mapping=state)
        pipe.set(LAYOUT_KEY, CONTRACT_VERSION, nx=True)
        pipe.zadd(JOBS_KEY, {job_id: record.created_at.timestamp() * 1000})
        if request.deadline_ms is not None:
            pipe.zadd(DEADLINES_KEY, {job_id: record.created_at.timestamp() * 1000 + request.deadline_ms})
        pipe.hset(work_key(request.model, request.priority), job_id, str(JobWork.of(request)))
        pipe.xadd(events_key(job_id), {"type": "queued", "data": "{}"})
        pipe.execute()
    queue = open_queue(redis, request)
    job = queue.enqueue_call(
        func=JOB_FUNCTION,
        args=(version, job_id),
        timeout=-1,
        result_ttl=RETENTION_S,
        failure_ttl=RETENTION_S,
        job_id=job_id,
        description=f"{request.kind} {job_id}",
        retry=Retry(max=1000),
        unique=True,
    )
    redis.rpush(wake_key(queue.name), "")
    return job


def job_state(redis: Redis, job_id: str) -> dict[str, str]:
    """Our record of a job, decoded."""
    return {as_text(name): as_text(value) for name, value in redis.hgetall(job_key(job_id)).items()}


def result_of(redis: Redis, job_id: str) -> JobResult:
    """What a job that succeeded made."""
    return JobResult.model_validate_json(job_state(redis, job_id)["result"])


def digests(redis: Redis, job_id: str) -> list[str]:
    """Hashes of its images' bytes."""
    return [image.sha256 for image in result_of(redis, job_id).images]


def event_types(redis: Redis, job_id: str) -> list[str]:
    """Types of all events of a job that clients see, oldest first."""
    types = [as_text(fields[b"type"]) for _, fields in redis.xrange(events_key(job_id)) or [] if fields]
    return [each for each in types if each != TRACE]
