"""What Redis says about a job, read under WATCH, and the transactions that change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from redis import Redis
from redis.client import Pipeline
from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.serializers import JSONSerializer

from contract.base import CONTRACTS_READ, Lane, queue_name
from contract.job import TERMINAL, JobHead, JobRecord
from contract.redis_keys import job_key
from core.errors import NewerRelease
from core.text import as_text
from jobs.commands import as_script

DEATHS_BEFORE_ISOLATION = 2  # without a savepoint between them; after that the job runs isolated

LaneQueue: TypeAlias = Queue  # RQ's queue of a model and lane
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredJob:
    """Our hash and RQ's of one job at one moment."""

    job: Job
    in_rq: bool
    state: dict[str, str]

    @property
    def unended(self) -> bool:
        """Whether there is a record and the job hasn't ended."""
        return "record" in self.state and self.state.get("status") not in TERMINAL

    @property
    def queued(self) -> bool:
        """Whether it may start."""
        return self.unended and self.job.get_status(refresh=False) == JobStatus.QUEUED

    @property
    def waiting(self) -> bool:
        """Whether our record says that no worker has it."""
        return self.unended and self.state.get("status") == "queued"

    @property
    def head(self) -> JobHead:
        """What every release understands of the record.

        Raises:
            KeyError: there is none.
        """
        return JobHead.read(self.state["record"])

    def readable_record(self) -> JobRecord | None:
        """The record; None if another contract's release wrote it."""
        try:
            version, job_id = self.job.args
            if version not in CONTRACTS_READ or job_id != self.job.id:
                return None
            return JobRecord.read(self.state["record"])
        except (DeserializationError, NewerRelease, TypeError, ValueError):
            return None

    @property
    def deaths_isolated(self) -> int:
        """Workers that died while this job ran isolated, since its last savepoint."""
        return int(self.state.get("deaths_alone", "0"))

    @property
    def spent_s(self) -> float:
        """What the job has cost the accelerator, as executions told it with their events or handed it back."""
        return float(self.state.get("spent_s", "0"))

    @property
    def suspect(self) -> bool:
        """Whether workers died with it so often that it must run isolated."""
        return int(self.state.get("deaths", "0")) >= DEATHS_BEFORE_ISOLATION or self.deaths_isolated > 0


def read_stored(pipe: Pipeline, redis: Redis, job_id: str) -> StoredJob:
    """Read both hashes, on a pipeline that watches them."""
    job = Job(job_id, connection=redis, serializer=JSONSerializer)
    if stored := pipe.hgetall(job.key):
        job.restore(stored)
    fields = pipe.hgetall(job_key(job_id))
    state = {as_text(name): as_text(value) for name, value in fields.items()}
    return StoredJob(job, bool(stored), state)


def lane_queue(redis: Redis, model: str, lane: Lane) -> LaneQueue:
    """Make the RQ queue of a model and lane."""
    return Queue(queue_name(model, lane), connection=redis, serializer=JSONSerializer)


def transact(redis: Redis, job_id: str, body: Callable[[Pipeline], T], *more_keys: str) -> T:
    """Run `body` under WATCH of the job's hashes and `more_keys` until its MULTI goes through, also in a full Redis.

    It reads, calls `pipe.multi()` and queues writes, whose answers it doesn't get. A connection that is lost before the
    answer to EXEC has `body` look again, so it must recognise its own success.

    Raises:
        RedisError: if Redis stays away.
    """
    values: list[T] = []

    def gather(pipe: Pipeline) -> None:
        values.append(body(pipe))
        as_script(pipe)

    redis.transaction(gather, Job.key_for(job_id), job_key(job_id), *more_keys)
    return values[-1]
