"""How job runs leave a worker: ended and published, or lost to another execution."""

from __future__ import annotations

from functools import partial

from core.errors import JobFailed
from jobs.end import Ending, Failed, HandedBack, Publisher, Retention, Succeeded
from jobs.run import JobRun
from jobs.worker import BatchWorker
from workers.engine.engine import Engine
from workers.metrics.families import WorkerMetrics
from workers.objects.storing import Storing
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.events import EventWriter
from workers.runs.isolation import Isolation
from workers.runs.table import RunTable


def faulty() -> Failed:
    """How a job ends that met a fault of ours, which is logged and isn't the client's to read."""
    return Failed(JobFailed("an internal error, described in the worker's log").problem())


class Publishing:
    """Ends runs, each by itself; ends that Redis doesn't take now are published once it is back."""

    def __init__(
        self,
        *,
        runs: RunTable,
        worker: BatchWorker,
        engine: Engine,
        storing: Storing,
        events: EventWriter,
        isolation: Isolation,
        metrics: WorkerMetrics,
        retention: Retention,
        breaker: CircuitBreaker,
    ) -> None:
        self._runs = runs
        self._worker = worker
        self._engine = engine
        self._storing = storing
        self._events = events
        self._isolation = isolation
        self._metrics = metrics
        self._breaker = breaker
        self._publisher = Publisher(worker, worker.connection, retention)

    def end(self, run: JobRun, ending: Ending) -> None:
        """Work on a run no more; how it ended is published this round, or once Redis is back."""
        self._engine.drop(run.job_id)
        run.closed = not isinstance(ending, Succeeded)
        self._runs.end(run, ending)

    def publish(self) -> int:
        """Publish what ended; the number of runs that are gone now."""
        endings = self._runs.ending()
        if not endings or self._breaker.attempt(self._events.write) is None:  # their last steps come first
            return 0
        written = self._breaker.attempt(partial(self._publisher.end_all, endings))
        if written is None:
            return 0
        for (run, _), ending in zip(endings, written, strict=True):
            self._published(run, ending)
        return len(endings)

    def _published(self, run: JobRun, ending: Ending | None) -> None:
        if ending is not None:
            self._metrics.ended(run, ending.status)
        self.release(run)
        if ending is not None and not isinstance(ending, HandedBack):
            unnamed = [] if isinstance(ending, Succeeded) else run.paths
            self._storing.discard([*unnamed, *filter(None, [run.state_path])])

    def release(self, run: JobRun) -> None:
        """Forget a run. Its objects stay: the record of a job that goes on may name them, which the sweep looks up."""
        self._engine.drop(run.job_id)
        run.closed = True
        self._events.forget(run)
        self._runs.remove(run)
        self._isolation.released(run)
        self._worker.executions.pop(run.execution.id, None)
        self._metrics.slots.labels(run.model).set(self._runs.images(run.model))
        if not len(self._runs):
            self._breaker.attempt(self._worker.rest)
