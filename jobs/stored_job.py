"""What Redis says about a job, read under WATCH by claims and by the reaper."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from redis import Redis
from redis.client import Pipeline
from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.utils import as_text

from contract.base import CONTRACT_VERSION
from contract.job import TERMINAL, JobRecord
from contract.lanes import Lane, queue_name
from contract.redis_keys import job_key
from contract.request import JobRequest, parse_request

DEATHS_IN_COMPANY = 2  # without a savepoint between them; after that the job runs alone


@dataclass(frozen=True, slots=True)
class StoredJob:
    """Our hash and RQ's of one job at one moment."""

    job: Job
    state: dict[str, str]
    request: JobRequest | None  # None: of another contract, or not of ours

    @property
    def ours(self) -> bool:
        """Whether there is a record and the job hasn't ended."""
        return "record" in self.state and self.state.get("status") not in TERMINAL

    @property
    def queued(self) -> bool:
        """Whether it may start."""
        return self.ours and self.job.get_status(refresh=False) == JobStatus.QUEUED

    @property
    def record(self) -> JobRecord:
        return JobRecord.model_validate_json(self.state["record"])

    @property
    def suspect(self) -> bool:
        """Whether workers died with it so often that it must run alone."""
        in_company, alone = self.state.get("deaths", "0"), self.state.get("deaths_alone", "0")
        return int(in_company) >= DEATHS_IN_COMPANY or int(alone) > 0


def look(pipe: Pipeline, redis: Redis, job_id: str) -> StoredJob:
    """Both hashes, on a pipeline that watches them."""
    job = Job(job_id, connection=redis, serializer=JSONSerializer)
    if stored := pipe.hgetall(job.key):
        job.restore(stored)
    fields = pipe.hgetall(job_key(job_id))
    state = {as_text(name): as_text(value) for name, value in fields.items()}
    return StoredJob(job, state, _request(job) if stored else None)


def lane_queue(redis: Redis, model: str, lane: Lane) -> Queue:
    """The RQ queue of a model and lane."""
    return Queue(queue_name(model, lane), connection=redis, serializer=JSONSerializer)


def _request(job: Job) -> JobRequest | None:
    """The resolved request among the arguments; None if another version wrote them."""
    try:
        version, job_id, request = job.args
        if version != CONTRACT_VERSION or job_id != job.id:
            return None
        return parse_request(request)
    except (DeserializationError, ValidationError, TypeError, ValueError):
        return None
