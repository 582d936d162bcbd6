"""RQ's view of a worker that holds many jobs at once: its registration and its heartbeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from redis import Redis
from redis.client import Pipeline
from redis.typing import EncodableT, FieldT
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker.base import BaseWorker, WorkerStatus
from rq.worker_registration import register

from contract.base import LANES, queue_name
from core.clock import CLOCK
from core.text import as_text
from jobs.run import JobRun

HEARTBEAT_TTL_S = 15
ANSWER_S = 5.0  # a Redis that needs longer counts as away


class BatchWorker(BaseWorker):
    """A worker that the loop drives instead of RQ's `work`."""

    def __init__(self, name: str, models: Sequence[str], redis: Redis) -> None:
        queues = [queue_name(model, lane) for lane in LANES for model in models]
        super().__init__(queues, name=name, connection=redis, serializer=JSONSerializer, worker_ttl=HEARTBEAT_TTL_S)

    @property
    def connection_timeout(self) -> int:
        """Nothing blocks here, so no command may take longer than it takes to notice that Redis is away."""
        return int(ANSWER_S)

    def arrive(self) -> None:
        """Show the worker to RQ.

        Raises:
            ValueError: a live worker has this name.
        """
        self.register_birth()  # type: ignore[no-untyped-call]
        self.rest()

    def rest(self) -> None:
        """Show that it holds no job."""
        self.set_state(WorkerStatus.IDLE)

    def leave(self) -> None:
        """Tell RQ that the worker is gone."""
        self.register_death()  # type: ignore[no-untyped-call]

    def beat(self, redis: Redis, runs: Sequence[JobRun], more: Callable[[Pipeline], None]) -> bool:
        """Renew the worker and its executions for 15 s in one round trip, with the commands of `more`.

        Lapsed executions are not revived; a worker that Redis forgot registers again. Whether it did.

        Raises:
            RedisError: if Redis is away.
        """
        with redis.pipeline() as pipe:
            self.heartbeat(HEARTBEAT_TTL_S, pipeline=pipe)
            more(pipe)
            beats = [self._beat_for(pipe, run) for run in runs]
            answers = pipe.execute()
            if answers[0]:  # the hash had lapsed: HSET made it anew
                self._register(pipe)
            for run, beat in zip(runs, beats, strict=True):
                if answers[beat]:  # as above, but the job is gone
                    pipe.delete(run.job.key)
            pipe.execute()
        return bool(answers[0])

    def _beat_for(self, pipe: Pipeline, run: JobRun) -> int:
        """Renew one execution; the place of the job's HSET among the answers."""
        run.execution.heartbeat(run.job.started_job_registry, HEARTBEAT_TTL_S, pipe)
        keep_from_rq(pipe, run.job, run.execution)
        run.job.heartbeat(CLOCK.now(), HEARTBEAT_TTL_S, pipeline=pipe)
        return len(pipe) - 1

    def _register(self, pipe: Pipeline) -> None:
        shown: dict[FieldT, EncodableT] = {**self.serialize(), "state": self.get_state()}
        pipe.hset(self.key, mapping=shown)
        pipe.expire(self.key, HEARTBEAT_TTL_S)
        register(self, pipe)


def keep_from_rq(pipe: Pipeline, job: Job, execution: Execution) -> None:
    """Give an execution, if it hasn't lapsed, no time at which RQ's clean-up takes it: `rq info` and dashboards run it,
    and it would queue the job again without counting that a worker died."""
    job.started_job_registry.add_execution(execution, pipeline=pipe, ttl=-1, xx=True)


def executions_of(redis: Redis, workers: Iterable[str]) -> dict[str, set[str]]:
    """Read which executions (`job id:execution id`) RQ knows of each worker.

    Raises:
        RedisError: if Redis is away.
    """
    names = list(workers)
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.smembers(WORKER_EXECUTIONS_KEY_TEMPLATE.format(name))
        return {name: set(map(as_text, found)) for name, found in zip(names, pipe.execute(), strict=True)}
