"""When the state of a running job is written as a savepoint."""

from __future__ import annotations

from collections.abc import Callable

from jobs.run import JobRun
from workers.engine.engine import Engine
from workers.queue.savepoints import Savepoints
from workers.runs.table import Phase, RunTable

SAVE_S = 2.0  # of work between two savepoints of a job
FIRST_SAVE_S = 0.5  # before the first of an execution, which clears the job of the deaths before it


class Saving:
    """Writes states of the runs that compute, each after every `save_s` of work."""

    def __init__(
        self, runs: RunTable, engine: Engine, savepoints: Savepoints, save_s: float, clock: Callable[[], float]
    ) -> None:
        self._runs = runs
        self._engine = engine
        self._savepoints = savepoints
        self._save_s = save_s
        self._clock = clock

    @property
    def busy(self) -> bool:
        """Whether a state is on its way."""
        return any(run.saving for run in self._runs.runs())

    def prepared(self, run: JobRun, step: int) -> None:
        """Count from here: the engine has the job, at `step`."""
        run.step = run.saved_step = step
        run.save_at = self._clock() + min(FIRST_SAVE_S, self._save_s)

    def save_due(self) -> None:
        """Save the jobs that worked long enough since their last savepoint."""
        now = self._clock()
        for run in self._runs.among(Phase.COMPUTING):
            if now >= run.save_at and run.step > run.saved_step and not run.saving:
                run.save_at = now + self._save_s
                self._write(run, self._savepoints.submit)

    def save_all(self) -> None:
        """Save every job soon; `busy` until then."""
        for run in self._runs.among(Phase.COMPUTING):
            if not run.saving:
                self._write(run, self._savepoints.submit)

    def save_now(self, run: JobRun) -> None:
        """Save a job before anything else is done; one that made no step begins anew anywhere, with any numerics."""
        if run.step > 0:
            self._write(run, self._savepoints.write)

    def _write(self, run: JobRun, write: Callable[[JobRun, bytes], None]) -> None:
        state = self._engine.snapshot(run.job_id)
        if state is not None:
            write(run, state)
