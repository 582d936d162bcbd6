"""How jobs get from their queues into the engine: claimed, loaded, admitted; isolated after deaths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog
from redis import Redis

from contract.base import LANES
from contract.request import JobRequest
from contract.stages import upscaler_of
from core.clock import CLOCK
from core.errors import CheckpointError, LatentdError
from jobs.end import Canceled, Failed
from jobs.run import JobRun
from workers.claim_policy import CLAIMS_A_ROUND, LOOKS_A_CLAIM, ModelLane
from workers.engine.engine import Engine
from workers.engine.messages import Admission
from workers.library.library import Arrival, ModelLibrary, not_loaded
from workers.metrics.families import WorkerMetrics
from workers.objects.storing import InputsLoaded, Storing
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.claims import Claims
from workers.queue.events import earlier_steps
from workers.runs.isolation import Isolation
from workers.runs.publishing import Publishing, faulty
from workers.runs.table import Phase, RunTable

STARTING = (Phase.LOADING, Phase.WAITING)

log = structlog.get_logger()


class Intake:
    """Claims jobs while there is room for their images and starts them."""

    def __init__(
        self,
        *,
        runs: RunTable,
        library: ModelLibrary,
        claims: Claims,
        engine: Engine,
        storing: Storing,
        isolation: Isolation,
        publishing: Publishing,
        metrics: WorkerMetrics,
        redis: Redis,
        breaker: CircuitBreaker,
        clock: Callable[[], float],
    ) -> None:
        self._runs = runs
        self._library = library
        self._claims = claims
        self._engine = engine
        self._storing = storing
        self._isolation = isolation
        self._publishing = publishing
        self._metrics = metrics
        self._redis = redis
        self._breaker = breaker
        self._clock = clock
        self._cold: list[InputsLoaded] = []  # of runs that wait for their models
        self._singly = 0  # how many jobs are still claimed only while no other runs

    def claim(self) -> int:
        """Claim and start jobs, a few a round; how many."""
        for count in range(CLAIMS_A_ROUND):
            lanes = self._lanes()
            at_most = LOOKS_A_CLAIM if self._runs.runs() else None
            claim = partial(self._claims.next, lanes, self._missing(), at_most)
            run = self._breaker.attempt(claim) if lanes else None
            if run is None:
                return count
            self._begin(run)
        return CLAIMS_A_ROUND

    def run_singly(self, count: int) -> None:
        """Run the next `count` jobs one at a time, to learn which of them the fault is in."""
        self._singly = count

    def loaded(self, inputs: InputsLoaded) -> None:
        """Start a run whose files and state are here, once its model is."""
        if self._library.lacking(inputs.run.models):
            self._cold.append(inputs)
        else:
            self._admit(inputs)

    def load_models(self) -> None:
        """Let a model of the oldest run that lacks one come, and runs start whose models came."""
        self._cold = [inputs for inputs in self._cold if not inputs.run.closed]
        arrival = self._library.arrived()
        if arrival is not None:
            self._came(arrival)
        self._end_withdrawn()
        waiting = self._waiting()
        # What a later run waits with may leave for the oldest: else each could keep what the other lacks, for ever.
        held = {
            model for run in self._runs.among(*STARTING, Phase.COMPUTING) if run not in waiting for model in run.models
        }
        self._library.want(waiting[0].models if waiting and self._may_load(waiting[0]) else (), held)
        for model in self._library.take_evicted():
            self._metrics.left(model)

    def _waiting(self) -> list[JobRun]:
        """Return the runs that lack a model, oldest first."""
        return [run for run in self._runs.among(*STARTING) if self._library.lacking(run.models)]

    def _may_load(self, run: JobRun) -> bool:
        """Tell whether models may come for a run: for one that workers died with, once no other is here.

        A death in loading is its own then. The others end first, as those that stood still would keep their models.
        """
        if not run.isolated or self._isolation.announced is run:
            return True
        alone = len(self._runs) == 1 and not self._library.loading
        announced = self._isolation.announce(run) if alone else None
        if announced is False:
            self._publishing.release(run)
        return bool(announced)

    def _end_withdrawn(self) -> None:
        """Fail runs whose model was withdrawn after they were claimed."""
        names = self._library.names()
        for run in self._waiting():
            lost = next((model for model in run.models if model not in names), None)
            if lost is not None:
                self._publishing.end(run, Failed(not_loaded(lost).problem()))

    def _came(self, arrival: Arrival) -> None:
        self._metrics.loads.labels(arrival.model, "failed" if arrival.error else "succeeded").inc()
        if arrival.error is None:
            self._metrics.came(arrival.model, self._library.offered[arrival.model])
        elif arrival.model not in self._library.offered:
            self._metrics.withdrawn(arrival.model)
        if arrival.error is not None:
            for run in self._runs.among(*STARTING):
                if arrival.model in run.models:
                    self._publishing.end(run, Failed(arrival.error.problem()))
        cold, self._cold = self._cold, []
        for inputs in cold:
            if not inputs.run.closed:
                self.loaded(inputs)

    def _used(self) -> set[str]:
        """Return the models that runs need in memory, now or once they come."""
        return {model for run in self._runs.among(*STARTING, Phase.COMPUTING) for model in run.models}

    def _missing(self) -> list[str]:
        return [model for model in self._library.offered if model not in self._library.resident]

    def start_isolated(self) -> None:
        """Start the run that waited to be isolated, if all is ready for it: what it is made of may be deadly, too."""
        ready = [] if self._storing.loading else self._isolation.ready()
        run = next((run for run in ready if not self._library.lacking(run.models)), None)
        announced = None if run is None else self._isolation.announce(run)
        if run is None or announced is None:
            return
        if announced:
            self._runs.move(run, Phase.LOADING)
            self._load(run)
        else:
            self._publishing.release(run)

    def _lanes(self) -> list[ModelLane]:
        """Return models and lanes with room for one more image; one that isn't stored yet keeps its slot."""
        if self._isolation.wanted or (self._singly and self._runs.among(Phase.LOADING, Phase.COMPUTING)):
            return []
        return [
            (model, lane)
            for model in self._library.claimable(self._used())
            for lane in LANES
            if self._has_room((model, lane))
        ]

    def _has_room(self, lane: ModelLane) -> bool:
        model = lane[0]
        return self._engine.capacity(*lane) > self._storing.waiting(model) + self._runs.images(model, Phase.LOADING)

    def _begin(self, run: JobRun) -> None:
        if (lost := self._runs.find(run.job_id)) is not None:  # taken for dead, and first to find the job again
            self._publishing.release(lost)
        self._runs.add(run)
        self._singly = max(0, self._singly - 1)
        log.info("job started", **run.names, kind=run.request.kind, model=run.model, resumed=run.resumed)
        self._metrics.slots.labels(run.model).set(self._runs.images(run.model))
        run.deadline = self._deadline(run)
        if run.resumed:
            self._remember(run)
        if run.canceled:
            self._publishing.end(run, Canceled())
        elif run.isolated:
            self._isolation.prepare()
        else:
            self._load(run)

    def _load(self, run: JobRun) -> None:
        if run.resumed or run.request.files:
            self._storing.load(run)
        else:
            self.loaded(InputsLoaded(run, {}))

    def _remember(self, run: JobRun) -> None:
        """Let a run know what earlier ones left in the job's stream."""
        found = self._breaker.attempt(lambda: earlier_steps(self._redis, run.job_id))
        run.step_ids.extend(found or ())

    def _deadline(self, run: JobRun) -> float | None:
        if run.request.deadline_ms is None:
            return None
        age = (CLOCK.now() - run.created_at).total_seconds()
        return self._clock() - age + run.request.deadline_ms / 1000

    def _admit(self, inputs: InputsLoaded) -> None:
        run = inputs.run
        admission = Admission(run.job_id, run.request, inputs.pictures, run.deadline, snapshot=inputs.state)
        try:
            _check_upscaler(run.request, self._storing.hashes)
            self._engine.admit(admission)
        except LatentdError as error:
            self._publishing.end(run, Failed(error.problem()))
            return
        except Exception:  # it checks and plans this job alone, and no network runs: the fault can only be in it
            log.exception("a job can't be admitted", **run.names)
            self._publishing.end(run, faulty())
            return
        self._library.use(run.models)
        self._runs.move(run, Phase.COMPUTING)


def _check_upscaler(request: JobRequest, hashes: Mapping[str, str]) -> None:
    """Raise CheckpointError where the weights that enlarge aren't those that the job was accepted with."""
    by = upscaler_of(request)
    if by is not None and (now := hashes[by.id]) != by.hash:
        detail = f"model {by.id!r} was replaced since the job was accepted: {by.hash[:10]} then, {now[:10]} now"
        raise CheckpointError(detail, field="hires.upscaler", value=by.id, bound=by.hash)
