"""The worker's loop: claim, compute, store, tell, publish; one short round after another, every job on its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import structlog
import torch
from rq.worker.base import BaseWorker, WorkerStatus

from latentd.errors import JobFailed, LatentdError
from service.contract import LANES
from workers.claims import Claims
from workers.engine import Engine
from workers.held import Held
from workers.link import Link
from workers.metrics import WorkerMetrics
from workers.progress import News, Progress, step_ids
from workers.publish import Canceled, Ending, Failed, HandedBack, Publisher, Succeeded
from workers.rates import RateMeter
from workers.rules import CLAIMS_A_ROUND, IDLE_S, Place
from workers.steptimes import StepTimer
from workers.storing import Loaded, Report, Stored, Storing
from workers.tasks import Admission, Called, Finished, Outcome, OutOfMemory, Prepared, Stepped
from workers.tasks import Failed as TaskFailed

HAND_BACK_S = 5.0  # how long a stopping worker tries to reach Redis; after that its jobs are found by their lapse

log = structlog.get_logger()


class Loop:
    """Everything that one worker process does with its jobs. Not for threads, but for `stop` and `held`."""

    def __init__(
        self,
        worker: BaseWorker,
        engine: Engine,
        models: Sequence[str],
        storing: Storing,
        metrics: WorkerMetrics,
        *,
        retention_s: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        redis = worker.connection
        self.claims = Claims(worker, redis, models, engine.numerics, clock)
        self.rates = RateMeter()
        self.times = StepTimer(models)
        self._worker = worker
        self._engine = engine
        self._models = models
        self._storing = storing
        self._metrics = metrics
        self._clock = clock
        self._link = Link(clock)
        self._publisher = Publisher(worker, redis, retention_s)
        self._progress = Progress(redis)
        self._held: dict[str, Held] = {}
        self._loading: dict[str, Held] = {}  # of the held ones, those whose uploads are being read
        self._endings: dict[str, Ending] = {}  # of the held ones, those that only have to be published
        self._computing: set[str] = set()  # of the held ones, those in the engine
        self._apart = 0  # how many jobs are still to be run one at a time
        self._stop_at: float | None = None

    def held(self) -> list[Held]:
        """All jobs held now, to be kept alive."""
        return list(self._held.values())

    def stop(self, grace_s: float) -> None:
        """Admit no more jobs; hand back those that don't end within `grace_s`."""
        self._stop_at = self._clock() + grace_s

    def run(self) -> None:
        """Work until stopped. Whatever happens, no job is kept."""
        try:
            while not self._done():
                if not self.round():
                    self._report(self._storing.reports(IDLE_S))
        finally:
            self._hand_back()

    def _done(self) -> bool:
        return self._stop_at is not None and (not self._held or self._clock() >= self._stop_at)

    def round(self) -> bool:
        """Claim, one unit of work, tell and publish; whether there was anything to do."""
        began = self._clock()
        claimed = self._claim() if self._stop_at is None else 0
        turn_began = self._clock()
        outcomes = self._compute() if self._engine.busy else []
        turn_s = self._clock() - turn_began
        self.times.turned(outcomes, turn_s, self._held)
        for outcome in outcomes:
            self._take(outcome)
        self._report(self._storing.reports())
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
        """Models and lanes with room for one more image."""
        if self._apart and (self._computing or self._loading):
            return []
        loading = [held.model for held in self._loading.values() for _ in range(held.request.num_images)]
        places: list[Place] = [(model, lane) for model in self._models for lane in LANES]
        return [place for place in places if self._engine.room(*place) > loading.count(place[0])]

    def _begin(self, held: Held) -> None:
        self._held[held.job_id] = held
        self._apart = max(0, self._apart - 1)
        log.info("job started", job_id=held.job_id, kind=held.request.kind, model=held.model, resumed=held.resumed)
        self._count_slots()
        if held.resumed:
            held.step_ids.extend(self._link.attempt(lambda: step_ids(self._worker.connection, held.job_id)) or [])
        if held.canceled:
            self._end(held, Canceled())
        elif held.request.image is None and held.request.mask is None:
            self._admit(held, None, None)
        else:
            self._loading[held.job_id] = held
            self._storing.load(held)

    def _admit(self, held: Held, image: bytes | None, mask: bytes | None) -> None:
        request, created = held.request, self._clock() - (datetime.now(UTC) - held.created_at).total_seconds()
        deadline = None if request.deadline_ms is None else created + request.deadline_ms / 1000
        try:
            self._engine.admit(Admission(held.job_id, request, image, mask, deadline=deadline, arrived=created))
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
            self.rates.called(outcome)
            return
        if isinstance(outcome, OutOfMemory):
            self._metrics.out_of_memory.labels(outcome.model).inc()
            log.warning("out of memory", model=outcome.model, stage=outcome.stage, size=outcome.size)
            return
        held = self._held.get(outcome.job_id)
        if held is not None and outcome.job_id not in self._endings:
            self._take_of(held, outcome)

    def _take_of(self, held: Held, outcome: Prepared | Stepped | Finished | TaskFailed) -> None:
        """What the engine did for one job."""
        if isinstance(outcome, Prepared):
            self._metrics.stages.labels("encode", held.model).observe(outcome.seconds)
        elif isinstance(outcome, Stepped):
            self._progress.step(held, outcome.step, outcome.preview)
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
                self._admit(held, report.image, report.mask)
            elif isinstance(report, Stored):
                self._store(held, report)
            else:
                self._end(held, Failed(report.error.problem()))

    def _store(self, held: Held, stored: Stored) -> None:
        held.images[stored.index] = stored.info
        held.paths.append(stored.path)
        held.store_s += stored.seconds
        self._progress.image(held, stored.info)
        self._metrics.images.labels(held.request.kind, held.model).inc()
        self.rates.imaged(held.model, stored.seconds + held.decode_s / held.request.num_images)
        self.times.stored(held.model, stored.seconds)
        if held.complete:
            self._end(held, Succeeded(held.result()))

    def _tell(self) -> None:
        """Write events and learn who was cancelled or lost; all of it waits while Redis is away."""
        news = self._link.attempt(lambda: self._progress.flush(self._held)) or News()
        for job_id in news.lost & self._held.keys():
            self._release(self._held[job_id])
        for job_id in news.canceled & self._held.keys() - self._endings.keys():
            self._end(self._held[job_id], Canceled())

    def _end(self, held: Held, ending: Ending) -> None:
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
            self._release(held, keep=written and isinstance(ending, Succeeded))
            count += 1
        return count

    def _release(self, held: Held, keep: bool = False) -> None:
        """Forget a job; its objects too, unless its result names them."""
        job_id = held.job_id
        self._engine.drop(job_id)
        held.closed = True
        self._progress.forget(held)
        self._held.pop(job_id, None)
        self._loading.pop(job_id, None)
        self._endings.pop(job_id, None)
        self._computing.discard(job_id)
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
                self._end(held, HandedBack())
        ends = self._clock() + HAND_BACK_S
        while self._held and self._clock() < ends:
            self._tell()
            if not self._publish():
                time.sleep(IDLE_S)
        if self._held:
            log.warning("redis is away: jobs return by themselves", jobs=len(self._held))
