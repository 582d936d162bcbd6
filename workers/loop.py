"""The worker's loop: claim, compute, store, tell, publish; one short round after another, every job on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import structlog
import torch
from rq.worker.base import BaseWorker, WorkerStatus

from contract.lanes import LANES
from core.errors import DeadlineMissed, JobFailed, LatentdError
from jobs.end import Canceled, Ending, Failed, HandedBack, Publisher, Retention, Succeeded
from jobs.run import JobRun
from workers.claim_policy import CLAIMS_A_ROUND, IDLE_S, Place
from workers.engine.engine import Engine
from workers.engine.messages import Admission, Called, Finished, Outcome, OutOfMemory, Prepared, Stepped
from workers.engine.messages import Failed as TaskFailed
from workers.metrics.families import WorkerMetrics
from workers.metrics.step_times import StepTimer
from workers.objects.storing import Loaded, Report, Stored, Storing
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.claims import Claims
from workers.queue.events import News, Progress, shared_of, step_ids, tell_alone, tell_together
from workers.queue.savepoints import Savepoints

SAVE_S = 2.0  # of work between two savepoints of a job
FIRST_SAVE_S = 0.5  # before the first of an execution, which clears the job of the deaths before it
HAND_BACK_S = 5.0  # how long a stopping worker tries to reach Redis; after that its jobs are found by their lapse

log = structlog.get_logger()


class Loop:
    """Everything that one worker process does with its jobs. Not for threads, but for `stop`, `held` and `round_s`."""

    def __init__(
        self,
        worker: BaseWorker,
        engine: Engine,
        models: Sequence[str],
        storing: Storing,
        savepoints: Savepoints,
        metrics: WorkerMetrics,
        *,
        retention: Retention,
        save_s: float = SAVE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        redis = worker.connection
        self.claims = Claims(worker, redis, models, engine.numerics, clock)
        self.times = StepTimer({model: engine.models[model] for model in models})
        self._worker = worker
        self._engine = engine
        self._models = models
        self._storing = storing
        self._savepoints = savepoints
        self._save_s = save_s
        self._metrics = metrics
        self._clock = clock
        self._link = CircuitBreaker(clock)
        self._publisher = Publisher(worker, redis, retention)
        self._progress = Progress(redis)
        self._held: dict[str, JobRun] = {}
        self._loading: dict[str, JobRun] = {}  # of the held ones, those whose uploads are being read
        self._endings: dict[str, Ending] = {}  # of the held ones, those that only have to be published
        self._computing: set[str] = set()  # of the held ones, those in the engine
        self._suspect: Loaded | None = None  # waits until the others' states are saved
        self._apart = 0  # how many jobs are still to be run one at a time
        self._stop_at: float | None = None
        self._round_at = clock()

    def held(self) -> list[JobRun]:
        """All jobs held now, to be kept alive."""
        return list(self._held.values())

    def round_s(self) -> float:
        """How long ago the last round began; 0 where no job waits for the next."""
        return self._clock() - self._round_at if self._held else 0.0

    def stop(self, grace_s: float) -> None:
        """Admit no more jobs; hand back those that don't end within `grace_s`."""
        self._stop_at = self._clock() + grace_s

    def run(self) -> None:
        """Work until stopped. Whatever happens, no job is kept."""
        try:
            while not self._done():
                if not self.round():
                    self._rest()
        finally:
            self._hand_back()

    def _done(self) -> bool:
        return self._stop_at is not None and (not self._held or self._clock() >= self._stop_at)

    def _rest(self) -> None:
        """Wait for the storing threads or, where no job is held, for one."""
        if self._held or self._link.away:
            self._report(self._storing.reports(IDLE_S))
        else:
            self._link.attempt(self.claims.rest)

    def round(self) -> bool:
        """Claim, one unit of work, tell and publish; whether there was anything to do."""
        began = self._round_at = self._clock()
        claimed = self._claim() if self._stop_at is None else 0
        self._start_suspect()
        turn_began = self._clock()
        outcomes = self._compute() if self._engine.busy else []
        turn_s = self._clock() - turn_began
        self.times.turned(outcomes, turn_s, self._held)
        for outcome in outcomes:
            self._take(outcome)
        self._report(self._storing.reports())
        self._end_late()
        self._save()
        self._tell()
        ended = self._publish()
        if outcomes:
            self.times.rounded(self._clock() - began - turn_s, claimed + ended)
        return bool(claimed or outcomes or ended)

    def _claim(self) -> int:
        for count in range(CLAIMS_A_ROUND):
            places = self._places()
            held = self._link.attempt(partial(self.claims.next, places)) if places else None
            if held is None:
                return count
            self._begin(held)
        return CLAIMS_A_ROUND

    def _places(self) -> list[Place]:
        """Models and lanes with room for one more image; one that isn't stored yet keeps its slot."""
        if any(held.alone for held in self._held.values()) or (self._apart and (self._computing or self._loading)):
            return []
        taken = {model: self._storing.waiting(model) for model in self._models}
        for held in self._loading.values():
            taken[held.model] += held.request.num_images
        places: list[Place] = [(model, lane) for model in self._models for lane in LANES]
        return [place for place in places if self._engine.room(*place) > taken[place[0]]]

    def _begin(self, held: JobRun) -> None:
        if (lost := self._held.get(held.job_id)) is not None:  # taken for dead, and first to find the job again
            self._release(lost)
        self._held[held.job_id] = held
        self._apart = max(0, self._apart - 1)
        log.info("job started", **held.names, kind=held.request.kind, model=held.model, resumed=held.resumed)
        self._count_slots()
        held.deadline = self._deadline(held)
        if held.resumed:
            held.step_ids.extend(self._link.attempt(lambda: step_ids(self._worker.connection, held.job_id)) or [])
        if held.canceled:
            self._end(held, Canceled())
        else:
            self._start(held)

    def _deadline(self, held: JobRun) -> float | None:
        if held.request.deadline_ms is None:
            return None
        age = (datetime.now(UTC) - held.created_at).total_seconds()
        return self._clock() - age + held.request.deadline_ms / 1000

    def _start_suspect(self) -> None:
        """A job that workers died with starts once the others are saved, and Redis knows that they stand still."""
        loaded = self._suspect
        if loaded is None or loaded.held.closed or any(held.saving for held in self._held.values()):
            return
        told = self._link.attempt(lambda: tell_alone(self._worker.connection, loaded.held))
        if told is None:
            return
        self._suspect = None
        if told:
            log.warning("job runs alone: workers died with it", **loaded.held.names)
            self._admit(loaded)
        else:
            self._release(loaded.held)

    def _suspend(self, loaded: Loaded) -> None:
        """Save the others before a suspect runs."""
        self._suspect = loaded
        for held in [self._held[job_id] for job_id in self._computing]:
            if not held.saving:
                self._save_one(held, self._savepoints.submit)

    def _start(self, held: JobRun) -> None:
        request = held.request
        if held.resumed or request.image is not None or request.mask is not None:
            self._loading[held.job_id] = held
            self._storing.load(held)
        else:
            self._admit(Loaded(held, None, None))

    def _admit(self, loaded: Loaded) -> None:
        held, request = loaded.held, loaded.held.request
        files = (loaded.image, loaded.mask)
        try:
            self._engine.admit(
                Admission(held.job_id, request, *files, held.deadline, snapshot=loaded.state, alone=held.alone)
            )
        except LatentdError as error:
            self._end(held, Failed(error.problem()))
        else:
            self._computing.add(held.job_id)

    def _compute(self) -> list[Outcome]:
        """One unit of the engine's work. A fault of ours must neither stop the service nor fail the innocent."""
        try:
            return self._engine.turn()
        except torch.AcceleratorError:
            raise  # the device is of no use to this process any more
        except Exception:
            log.exception("the engine failed", jobs=sorted(self._computing))
            self._set_apart()
            return []

    def _set_apart(self) -> None:
        """Fail the job that was alone; of several, hand all back and run each alone."""
        running = [held for held in reversed(self.held()) if held.job_id in self._computing]
        alone = len(running) == 1
        self._apart = 0 if alone else len(running)
        problem = JobFailed("an internal error, described in the worker's log").problem()
        for held in running:
            self._end(held, Failed(problem) if alone else HandedBack())

    def _take(self, outcome: Outcome) -> None:
        """What the engine did."""
        if isinstance(outcome, Called):
            self._metrics.called(outcome)
            return
        if isinstance(outcome, OutOfMemory):
            self._metrics.out_of_memory.labels(outcome.model).inc()
            log.warning("out of memory", model=outcome.model, stage=outcome.stage, size=outcome.size)
            return
        held = self._held.get(outcome.job_id)
        if held is not None and outcome.job_id not in self._endings:
            self._take_of(held, outcome)

    def _take_of(self, held: JobRun, outcome: Prepared | Stepped | Finished | TaskFailed) -> None:
        """What the engine did for one job."""
        if isinstance(outcome, Prepared):
            self._metrics.stages.labels("encode", held.model).observe(outcome.seconds)
            held.encode_s = outcome.seconds
            held.step = held.saved_step = outcome.step
            held.save_at = self._clock() + min(FIRST_SAVE_S, self._save_s)
            if held.resumed:
                log.info("job resumed", **held.names, step=outcome.step, steps=held.steps)
        elif isinstance(outcome, Stepped):
            held.step = outcome.step
            if outcome.step > held.shown:  # a resumed job repeats steps that clients have seen
                self._progress.step(held, outcome.step, outcome.preview, shared_of(held, outcome.share))
        elif isinstance(outcome, Finished):
            held.denoise_s = max(held.denoise_s, outcome.denoise_s)  # images of a job share calls
            held.decode_s += outcome.decode_s
            held.answered += 1
            if held.answered == held.request.num_images:
                self._computing.discard(held.job_id)
            self._storing.save(held, outcome.index, outcome.picture)
        else:
            self._end(held, Failed(outcome.error.problem()))

    def _report(self, reports: Sequence[Report]) -> None:
        """What the storing threads did."""
        for report in reports:
            held = report.held
            if self._loading.get(held.job_id) is held:
                del self._loading[held.job_id]
            if held.closed:
                self._storing.discard([report.path] if isinstance(report, Stored) else [])
            elif isinstance(report, Loaded):
                self._suspend(report) if held.alone else self._admit(report)
            elif isinstance(report, Stored):
                self._store(held, report)
            else:
                self._end(held, Failed(report.error.problem()))

    def _store(self, held: JobRun, stored: Stored) -> None:
        held.images[stored.index] = stored.info
        held.paths.append(stored.path)
        held.store_s += stored.seconds
        self._progress.image(held, stored.index, stored.info)
        self._metrics.images.labels(held.request.kind, held.model).inc()
        self.times.stored(held.model, stored.try_s)
        if held.complete:
            self._end(held, Succeeded(held.result()))

    def _end_late(self) -> None:
        """The engine ends late jobs that it has; here are those whose pictures are loaded or stored."""
        now = self._clock()
        for held in self.held():
            late = held.deadline is not None and held.deadline <= now
            if late and held.job_id not in self._computing and held.job_id not in self._endings:
                bound = held.request.deadline_ms
                detail = f"deadline_ms {bound} passed while the job's pictures were loaded or stored"
                self._end(held, Failed(DeadlineMissed(detail, field="deadline_ms", value=bound).problem()))

    def _save(self) -> None:
        """Write states of jobs that worked for `save_s` since their last one."""
        now = self._clock()
        for held in [self._held[job_id] for job_id in self._computing]:
            if held.alone and held.passed:
                held.alone = False
                self._engine.rejoin(held.job_id)
                self._link.attempt(partial(tell_together, self._worker.connection, held))
            if now >= held.save_at and held.step > held.saved_step and not held.saving:
                held.save_at = now + self._save_s
                self._save_one(held, self._savepoints.submit)

    def _save_one(self, held: JobRun, write: Callable[[JobRun, bytes], None]) -> None:
        state = self._engine.snapshot(held.job_id)
        if state is not None:
            write(held, state)

    def _tell(self) -> None:
        """Write events and learn who was cancelled or lost; all of it waits while Redis is away."""
        news = self._link.attempt(lambda: self._progress.flush(self._held)) or News()
        for job_id in news.lost & self._held.keys():
            self._release(self._held[job_id])
        for job_id in news.canceled & self._held.keys() - self._endings.keys():
            self._end(self._held[job_id], Canceled())

    def _end(self, held: JobRun, ending: Ending) -> None:
        """Work on it no more; how it ended is published this round, or once Redis is back."""
        self._engine.drop(held.job_id)
        self._computing.discard(held.job_id)
        held.closed = not isinstance(ending, Succeeded)
        self._endings[held.job_id] = ending

    def _publish(self) -> int:
        count = 0
        for job_id, ending in list(self._endings.items()):
            held = self._held[job_id]
            written = self._link.attempt(partial(self._publisher.end, held, ending))
            if written is None:
                return count
            if written:
                self._metrics.ended(held, ending.status)
            self._release(held, keep=written and isinstance(ending, Succeeded | HandedBack))
            if written and held.state_path and not isinstance(ending, HandedBack):
                self._storing.discard([held.state_path])
            count += 1
        return count

    def _release(self, held: JobRun, keep: bool = False) -> None:
        """Forget a job; its objects too, unless its record names them."""
        job_id = held.job_id
        self._engine.drop(job_id)
        held.closed = True
        self._progress.forget(held)
        self._held.pop(job_id, None)
        self._loading.pop(job_id, None)
        self._endings.pop(job_id, None)
        self._computing.discard(job_id)
        if held.alone:
            self._suspect = None
            self._link.attempt(lambda: tell_together(self._worker.connection, held))
        self._worker.executions.pop(held.execution.id, None)
        if not keep:
            self._storing.discard(held.paths)
        self._count_slots()
        if not self._held:
            self._link.attempt(lambda: self._worker.set_state(WorkerStatus.IDLE))

    def _count_slots(self) -> None:
        for model in self._models:
            slots = sum(held.request.num_images for held in self._held.values() if held.model == model)
            self._metrics.slots.labels(model).set(slots)

    def _hand_back(self) -> None:
        """Put what is left in front of its queue, oldest first."""
        for held in reversed(self.held()):
            if held.job_id not in self._endings:
                self._save_one(held, self._savepoints.write)
                self._end(held, HandedBack())
        ends = self._clock() + HAND_BACK_S
        while self._held and self._clock() < ends:
            self._tell()
            if not self._publish():
                time.sleep(IDLE_S)
        if self._held:
            log.warning("redis is away: jobs return by themselves", jobs=len(self._held))
