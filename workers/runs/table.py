"""The job runs of a worker, and the phase that each is in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from jobs.end import Ending
from jobs.run import JobRun


class Phase(Enum):
    """Where a job run is; each goes forward only, and may skip phases."""

    WAITING = "waiting"  # to be isolated, until the others' states are saved
    LOADING = "loading"  # its files and the state of an earlier execution are being read
    COMPUTING = "computing"  # in the engine
    STORING = "storing"  # the engine has done all its images
    ENDING = "ending"  # only its end has to be published


@dataclass(slots=True, eq=False)
class Entry:
    """A job run in its phase; `ending` once it ends, the `rank`th to do so."""

    run: JobRun
    phase: Phase
    ending: Ending | None = None
    rank: int = 0


class RunTable:
    """Job runs by job id. Not for threads, but for `runs`."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._ended = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def job_ids(self) -> Collection[str]:
        return self._entries.keys()

    def runs(self) -> list[JobRun]:
        """Return all of them, oldest first."""
        return [entry.run for entry in list(self._entries.values())]

    def among(self, *phases: Phase) -> list[JobRun]:
        """Return those in one of these phases, oldest first; none given: all."""
        return [entry.run for entry in self._entries.values() if not phases or entry.phase in phases]

    def find(self, job_id: str, *phases: Phase) -> JobRun | None:
        """Return the run of a job, if it is in one of these phases; none given: in any."""
        entry = self._entries.get(job_id)
        return entry.run if entry is not None and (not phases or entry.phase in phases) else None

    def images(self, model: str, *phases: Phase) -> int:
        """Count images of a model's runs in these phases; none given: in any."""
        return sum(run.request.num_images for run in self.among(*phases) if run.model == model)

    def add(self, run: JobRun) -> None:
        """Take a run that was claimed; a suspect waits to be isolated first."""
        self._entries[run.job_id] = Entry(run, Phase.WAITING if run.isolated else Phase.LOADING)

    def remove(self, run: JobRun) -> None:
        """Forget a run."""
        self._entries.pop(run.job_id, None)

    def move(self, run: JobRun, phase: Phase) -> None:
        """Note that a run is in its next phase."""
        self._entries[run.job_id].phase = phase

    def end(self, run: JobRun, ending: Ending) -> None:
        """Note how a run ends."""
        entry = self._entries[run.job_id]
        self._ended += 1
        entry.phase, entry.ending, entry.rank = Phase.ENDING, ending, self._ended

    def ending(self) -> list[tuple[JobRun, Ending]]:
        """Return runs whose ends have to be published, and how they end, in the order in which they did."""
        entries = sorted(self._entries.values(), key=lambda entry: entry.rank)
        return [(entry.run, entry.ending) for entry in entries if entry.ending is not None]
