"""The worker's loop: claim, compute, store, tell, publish; one short round after another, every job on its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog
import torch
from redis.exceptions import RedisError

from core.errors import DeadlineMissed
from jobs.claim import Holdings
from jobs.end import Canceled, Failed, HandedBack, Retention, Succeeded
from jobs.run import JobRun
from jobs.worker import BatchWorker
from workers.claim_policy import IDLE_S
from workers.engine.engine import Engine
from workers.engine.messages import Aborted, Called, Enlarged, Finished, Outcome, OutOfMemory, Prepared, Stepped
from workers.library.library import ModelLibrary
from workers.metrics.families import WorkerMetrics
from workers.metrics.step_times import StepTimer
from workers.objects.storing import ImageStored, InputsLoaded, Report, Storing
from workers.queue.circuit_breaker import CircuitBreaker
from workers.queue.claims import Claims
from workers.queue.events import EventWriter, News, shared_of
from workers.queue.savepoints import Savepoints
from workers.runs.intake import Intake
from workers.runs.isolation import Isolation
from workers.runs.publishing import Publishing, faulty
from workers.runs.saving import SAVE_S, Saving
from workers.runs.table import Phase, RunTable

INNOCENT = (RedisError, OSError)  # faults that no job can cause: those of its own files are met where they are read
HAND_BACK_S = 5.0  # how long a stopping worker saves, then tries to reach Redis; else jobs are found by their lapse

log = structlog.get_logger()


class Loop:
    """Everything that one worker process does with its jobs. Not for threads, but for `stop`, `runs` and `round_s`."""

    def __init__(
        self,
        worker: BatchWorker,
        engine: Engine,
        library: ModelLibrary,
        storing: Storing,
        savepoints: Savepoints,
        metrics: WorkerMetrics,
        *,
        retention: Retention,
        save_s: float = SAVE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        redis, breaker, table = worker.connection, CircuitBreaker(clock, worker.connection), RunTable()
        models = library.offered
        numerics = {name: engine.numerics(model.dtype, model.packed) for name, model in models.items()}
        holdings = Holdings(engine.loras, engine.embeddings, engine.controlnets, library.holds)
        self.claims = Claims(worker, redis, list(models), numerics, holdings)
        self.times = StepTimer(models)
        self._engine = engine
        self._storing = storing
        self._metrics = metrics
        self._clock = clock
        self._breaker = breaker
        self._table = table
        self._events = EventWriter(redis, clock)
        self._saving = Saving(table, engine, savepoints, save_s, clock)
        self._isolation = Isolation(table, engine, self._saving, redis, breaker)
        self._publishing = Publishing(
            runs=table,
            worker=worker,
            engine=engine,
            storing=storing,
            events=self._events,
            isolation=self._isolation,
            metrics=metrics,
            retention=retention,
            breaker=breaker,
        )
        self._intake = Intake(
            runs=table,
            library=library,
            claims=self.claims,
            engine=engine,
            storing=storing,
            isolation=self._isolation,
            publishing=self._publishing,
            metrics=metrics,
            redis=redis,
            breaker=breaker,
            clock=clock,
        )
        self._stop_at: float | None = None
        self._stops: deque[float] = deque()  # graces that were asked for and not told yet
        self._round_at = clock()

    def runs(self) -> list[JobRun]:
        """Return all job runs of this worker now, to be kept alive."""
        return self._table.runs()

    def round_s(self) -> float:
        """Return how long ago the last round began; 0 where no job waits for the next."""
        return self._clock() - self._round_at if len(self._table) else 0.0

    def stop(self, grace_s: float) -> None:
        """Admit no more jobs; hand back those that don't end within `grace_s`."""
        self._stop_at = self._clock() + grace_s
        self._stops.append(grace_s)

    def run(self) -> None:
        """Work until stopped, then hand back what is left; also where Redis or a disk refuses: no job is to blame.

        A job may have caused any other fault. Then all are left, as by `kill -9`, to whoever counts a death with them.
        """
        suspicious = False
        try:
            while not self._done():
                self._tell_stops()
                if not self.round():
                    self._rest()
        except Exception as error:
            suspicious = not isinstance(error, INNOCENT)
            raise
        finally:
            self._tell_stops()
            if not suspicious:
                self._hand_back()

    def _tell_stops(self) -> None:
        """Log what `stop` was told, which a signal's handler mustn't itself."""
        while self._stops:
            grace_s = self._stops.popleft()
            what = "draining: a second signal hands back at once" if grace_s else "handing back at once"
            log.info(what, jobs=len(self._table), for_s=grace_s)

    def _done(self) -> bool:
        return self._stop_at is not None and (not len(self._table) or self._clock() >= self._stop_at)

    def _rest(self) -> None:
        """Wait for the storing threads or, where there is no job, for one."""
        if len(self._table) or self._breaker.away:
            self._report(self._storing.reports(IDLE_S))
        else:
            self._breaker.attempt(self.claims.rest)

    def round(self) -> bool:
        """Claim, one unit of work, tell and publish; whether there was anything to do."""
        began = self._round_at = self._clock()
        claimed = self._intake.claim() if self._stop_at is None else 0
        self._intake.load_models()
        self._intake.start_isolated()
        turn_began = self._clock()
        outcomes = self._compute() if self._engine.busy else []
        turn_s = self._clock() - turn_began
        self.times.turned(outcomes, turn_s, {run.job_id: run for run in self.runs()})
        for outcome in outcomes:
            self._take(outcome)
        self._report(self._storing.reports())
        self._end_late()
        self._isolation.rejoin_passed()
        self._saving.save_due()
        self._tell()
        ended = self._publishing.publish()
        if outcomes:
            self.times.rounded(self._clock() - began - turn_s, claimed + ended)
        return bool(claimed or outcomes or ended)

    def _compute(self) -> list[Outcome]:
        """Do one unit of the engine's work. A fault of ours must neither stop the service nor fail the innocent."""
        try:
            return self._engine.turn()
        except torch.AcceleratorError:
            raise  # the device is of no use to this process any more, and a job may have killed it
        except Exception:
            running = self._table.among(Phase.COMPUTING)
            log.exception("the engine failed", jobs=sorted(run.job_id for run in running))
            self._end_faulty(running)
            return []

    def _end_faulty(self, running: Sequence[JobRun]) -> None:
        """Fail a job that was by itself; of several, hand all back and run each by itself."""
        single = len(running) == 1
        self._intake.run_singly(0 if single else len(running))
        for run in reversed(running):
            self._publishing.end(run, faulty() if single else HandedBack())

    def _take(self, outcome: Outcome) -> None:
        """Note what the engine did."""
        if isinstance(outcome, Called):
            self._metrics.called(outcome)
        elif isinstance(outcome, OutOfMemory):
            self._metrics.out_of_memory.labels(outcome.model).inc()
            log.warning("out of memory", model=outcome.model, stage=outcome.stage, size=outcome.size)
        elif (run := self._table.find(outcome.job_id, Phase.COMPUTING)) is not None:
            self._take_of(run, outcome)

    def _take_of(self, run: JobRun, outcome: Prepared | Enlarged | Stepped | Finished | Aborted) -> None:
        """Note what the engine did for one job."""
        if isinstance(outcome, Prepared):
            self._metrics.stages.labels("encode", run.model).observe(outcome.seconds)
            run.encode_s, run.steps = outcome.seconds, outcome.steps
            self._saving.prepared(run, outcome.step)
            if run.resumed:
                log.info("job resumed", **run.names, step=outcome.step, steps=run.steps)
        elif isinstance(outcome, Enlarged):
            self._metrics.stages.labels("encode", run.model).observe(outcome.seconds)
            run.encode_s += outcome.seconds
        elif isinstance(outcome, Stepped):
            run.step, run.gpu_s = outcome.step, outcome.share.gpu_s
            if outcome.step > run.shown:  # a resumed job repeats steps that clients have seen
                self._events.step(run, outcome.step, outcome.previews, shared_of(run, outcome.share))
        elif isinstance(outcome, Finished):
            self._take_image(run, outcome)
        else:
            self._publishing.end(run, Failed(outcome.error.problem()))

    def _take_image(self, run: JobRun, image: Finished) -> None:
        run.denoise_s = max(run.denoise_s, image.denoise_s)  # images of a job share calls
        run.decode_s += image.decode_s
        run.answered += 1
        if run.answered == run.request.num_images:
            self._table.move(run, Phase.STORING)
        self._storing.save(run, image.index, image.picture)

    def _report(self, reports: Sequence[Report]) -> None:
        """Note what the storing threads did."""
        for report in reports:
            if report.run.closed:
                self._storing.discard([report.path] if isinstance(report, ImageStored) else [])
            elif isinstance(report, InputsLoaded):
                self._intake.loaded(report)
            elif isinstance(report, ImageStored):
                self._store(report.run, report)
            else:
                self._publishing.end(report.run, Failed(report.error.problem()))

    def _store(self, run: JobRun, stored: ImageStored) -> None:
        run.images[stored.index] = stored.info
        run.paths.append(stored.path)
        run.store_s += stored.seconds
        self._events.image(run, stored.index, stored.info)
        self._metrics.images.labels(run.request.kind, run.model).inc()
        self.times.stored(run.model, stored.try_s)
        if run.complete:
            self._publishing.end(run, Succeeded(run.result()))

    def _end_late(self) -> None:
        """End late jobs whose model or pictures are loaded or stored; the engine ends those that it has."""
        now = self._clock()
        for run in self._table.among(Phase.LOADING, Phase.WAITING, Phase.STORING):
            if run.deadline is not None and run.deadline <= now:
                bound = run.request.deadline_ms
                detail = f"deadline_ms {bound} passed while the job's model or pictures were loaded or stored"
                self._publishing.end(run, Failed(DeadlineMissed(detail, field="deadline_ms", value=bound).problem()))

    def _tell(self) -> None:
        """Write events and learn who was cancelled or lost; all of it waits while Redis is away."""
        news = self._breaker.attempt(lambda: self._events.flush(self._table.job_ids)) or News()
        for job_id in news.lost:
            if (run := self._table.find(job_id)) is not None:
                self._publishing.release(run)
        for run in self._table.among(Phase.LOADING, Phase.WAITING, Phase.COMPUTING, Phase.STORING):
            if run.job_id in news.canceled:
                self._publishing.end(run, Canceled())

    def _hand_back(self) -> None:
        """Put what is left in front of its queue, oldest first; without their last steps where that takes too long."""
        saved_until = self._clock() + HAND_BACK_S
        for run in reversed(self._table.among(Phase.LOADING, Phase.WAITING, Phase.COMPUTING, Phase.STORING)):
            if self._clock() < saved_until:
                self._saving.save_now(run)
            self._publishing.end(run, HandedBack())
        stops = self._clock() + HAND_BACK_S
        while len(self._table) and self._clock() < stops:
            if not self._publishing.publish():
                time.sleep(IDLE_S)
        if len(self._table):
            log.warning("redis is away: jobs return by themselves", jobs=len(self._table))
