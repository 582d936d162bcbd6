"""Isolated runs: a job that workers died with runs by itself until it has passed a savepoint.

The others are saved first and stand still meanwhile, so that a death is this job's and costs them nothing.
"""

from __future__ import annotations

from functools import partial

import structlog
from redis import Redis

from jobs.run import JobRun
from workers.engine.engine import Engine
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.isolation import announce_isolated, withdraw_isolated
from workers.runs.saving import Saving
from workers.runs.table import Phase, RunTable

log = structlog.get_logger()


class Isolation:
    """Lets the engine isolate a run, and tells the reapers by a key in Redis."""

    def __init__(self, runs: RunTable, engine: Engine, saving: Saving, redis: Redis, breaker: CircuitBreaker) -> None:
        self._runs = runs
        self._engine = engine
        self._saving = saving
        self._redis = redis
        self._breaker = breaker
        self.announced: JobRun | None = None  # the run whose a death is

    @property
    def wanted(self) -> bool:
        """Whether a run is isolated, or will be."""
        return any(run.isolated for run in self._runs.runs())

    def prepare(self) -> None:
        """Save the others before anything of a run that waits is read."""
        self._saving.save_all()

    def ready(self) -> list[JobRun]:
        """Return the runs that wait to be isolated, once all states are saved."""
        return [] if self._saving.busy else self._runs.among(Phase.WAITING)

    def announce(self, run: JobRun) -> bool | None:
        """Say that from now on a death is this run's: the others stand still. False if another execution has the job,
        None without Redis."""
        announced = self._breaker.attempt(lambda: announce_isolated(self._redis, run))
        if announced:
            self.announced = run
            self._engine.isolate(run.job_id)
            log.warning("job runs alone: workers died with it", **run.names)
        return announced

    def rejoin_passed(self) -> None:
        """Let a run that has passed a savepoint share calls with the others."""
        for run in self._runs.among(Phase.COMPUTING):
            if run.isolated and run.passed:
                run.isolated = False
                self._engine.rejoin()
                self._breaker.attempt(partial(withdraw_isolated, self._redis, run))

    def released(self, run: JobRun) -> None:
        """Tell the reapers that a run which ended before it passed a savepoint is isolated no more."""
        if run.isolated:
            self._breaker.attempt(lambda: withdraw_isolated(self._redis, run))
