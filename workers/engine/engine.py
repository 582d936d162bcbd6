"""The engine: holds admitted jobs and does one unit of work a turn, so that its caller can claim and cancel between.

It knows neither queue nor storage; the queue's worker and the commands without a server drive the same one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from contract.lanes import Lane
from contract.request import Numerics
from core.errors import DeadlineMissed, JobFailed, LatentdError
from models.pipeline import LatentDiffusion
from workers.engine.conditioning import PromptCache, prepare
from workers.engine.decoding import Decoder, Undecoded
from workers.engine.denoise import denoise
from workers.engine.engine_job import EngineJob
from workers.engine.job_spec import job_spec_of
from workers.engine.memory import or_none
from workers.engine.messages import Admission, Called, Failed, Finished, Outcome, OutOfMemory, Prepared, Stepped
from workers.engine.numerics import configure, numerics_of
from workers.engine.pictures import preview
from workers.engine.savepoint_state import snapshot
from workers.engine.scheduler import Batch, StepScheduler

MAX_PIXELS = 16_777_216


class Engine:
    """Denoises and decodes the images of many jobs on one device.

    `max_rows` bounds a UNet call in fast mode; calls that carry a strict slot have exactly `strict_rows` rows.
    """

    def __init__(
        self,
        models: Mapping[str, LatentDiffusion],
        *,
        device: str,
        threads: int,
        max_rows: int,
        strict_rows: int,
        max_pixels: int = MAX_PIXELS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        configure(threads)
        dtype = next(iter(models.values())).dtype
        self.numerics: Numerics = numerics_of(device, dtype, threads, strict_rows)
        self._models = dict(models)
        self._max_pixels = max_pixels
        self._clock = clock
        self._scheduler = StepScheduler(clock, max_rows=max_rows, strict_rows=strict_rows)
        self._prompts = PromptCache()
        self._decoder = Decoder()
        self._jobs: dict[str, EngineJob] = {}
        self._unprepared: deque[EngineJob] = deque()
        self._previews: deque[tuple[EngineJob, Stepped, Tensor]] = deque()
        self._decoded_last = False

    @property
    def models(self) -> Mapping[str, LatentDiffusion]:
        """The models that it holds, by id."""
        return self._models

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, one for all models."""
        return next(iter(self._models.values())).dtype

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def room(self, model: str, lane: Lane = "interactive") -> int:
        """How many more images of `model` may be admitted now from `lane`."""
        if self._alone() is not None:
            return 0
        waiting = sum(job.admission.request.num_images for job in self._unprepared if job.blue.model.id == model)
        return max(0, self._scheduler.room(model, lane) - waiting - self._decoder.count(model))

    def admit(self, admission: Admission) -> None:
        """Take a job; its first outcome comes from a later `turn`.

        Raises:
            LatentdError: the job can't succeed however often it runs.
        """
        model = self._models.get(admission.request.model)
        if model is None:
            raise JobFailed(f"model {admission.request.model} isn't loaded here", field="model", bound=[*self._models])
        job = EngineJob(admission, job_spec_of(admission, model, self._max_pixels))
        self._jobs[job.job_id] = job
        self._unprepared.append(job)

    def drop(self, job_id: str) -> None:
        """Forget a job; no outcome of it comes any more. A job that isn't held is let pass."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        self._scheduler.remove(job_id)
        self._decoder.drop(job)
        self._unprepared = deque(waiting for waiting in self._unprepared if waiting is not job)
        self._previews = deque(due for due in self._previews if due[0] is not job)

    def rejoin(self, job_id: str) -> None:
        """Let a job that ran alone share calls again."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        job.admission = replace(job.admission, alone=False)
        for slot in self._scheduler.slots(job_id):
            slot.alone = False

    def snapshot(self, job_id: str) -> bytes | None:
        """The job's state, for `Admission.snapshot` of a later execution; None where there is none yet."""
        job = self._jobs.get(job_id)
        return snapshot(job.pictures) if job is not None and job.pictures else None

    def turn(self) -> list[Outcome]:
        """One preparation, one preview, one decoding chunk or one UNet call; empty when idle."""
        late = self._late()
        if late:
            return late
        alone = self._alone()
        if (job := next((job for job in self._unprepared if alone in (None, job)), None)) is not None:
            self._unprepared.remove(job)
            return self._prepare(job)
        if (due := next((due for due in self._previews if alone in (None, due[0])), None)) is not None:
            self._previews.remove(due)
            return self._show(*due)
        batch = self._scheduler.next_batch()
        # Calls and decoding chunks take turns, so that neither those who wait for pixels nor the others stall.
        if self._decoder.waits(alone) and not (self._decoded_last and batch is not None):
            self._decoded_last = True
            return self._decode(alone)
        self._decoded_last = False
        return self._denoise(batch) if batch is not None else []

    def _alone(self) -> EngineJob | None:
        """The job beside which nothing runs: the others stand still."""
        return next((job for job in self._jobs.values() if job.admission.alone), None)

    def _late(self) -> list[Outcome]:
        now = self._clock()
        late = [
            job for job in self._jobs.values() if job.admission.deadline is not None and job.admission.deadline <= now
        ]
        return [self._fail(job, _deadline_missed(job)) for job in late]

    def _fail(self, job: EngineJob, error: LatentdError) -> Outcome:
        self.drop(job.job_id)
        return Failed(job.job_id, error)

    def _prepare(self, job: EngineJob) -> list[Outcome]:
        began = self._clock()
        try:
            conditions = or_none(lambda: prepare(job.blue, self._prompts))
        except LatentdError as error:
            return [self._fail(job, error)]
        if conditions is None:
            return [OutOfMemory(job.blue.model.id, "encode", 1), self._fail(job, _too_large("encoding its pictures"))]
        with torch.inference_mode():
            job.start(conditions)
        for slot in job.slots():
            self._scheduler.add(slot)
        for index, picture in enumerate(job.pictures):
            if picture.done:
                self._decoder.add(job, index)
        return [Prepared(job.job_id, self._clock() - began, job.step, job.blue.latent_shape)]

    def _denoise(self, batch: Batch) -> list[Outcome]:
        began = self._clock()
        model = self._models[batch.model]
        held = [(self._jobs[slot.job_id], slot.index) for slot in batch.slots]
        pictures = [job.pictures[index] for job, index in held]
        x0 = or_none(lambda: denoise(model, pictures, batch.padded_rows))  # n c h w
        if x0 is None:
            return self._split(batch)
        finite = torch.stack([picture.z_t for picture in pictures]).isfinite().flatten(1).all(1).tolist()
        seconds = self._clock() - began
        for picture in pictures:
            picture.denoise_s += seconds
        called = Called(
            batch.model, batch.rows, batch.padded_rows, batch.strict, seconds, len(batch.slots), batch.group.shape
        )
        for slot in self._scheduler.advance(batch):
            self._decoder.add(self._jobs[slot.job_id], slot.index)
        broken = {job.job_id: job for (job, _), good in zip(held, finite, strict=True) if not good}
        outcomes: list[Outcome] = [self._fail(job, _not_finite(job)) for job in broken.values()]
        return [called, *outcomes, *self._report(batch, held, x0, seconds)]

    def _report(self, batch: Batch, held: list[tuple[EngineJob, int]], x0: Tensor, seconds: float) -> list[Outcome]:
        """Progress of each job of a call; that of a job whose preview is due comes with it, next turn."""
        firsts = {job.job_id: x0[i] for i, (job, index) in enumerate(held) if index == 0}
        outcomes: list[Outcome] = []
        for job in dict.fromkeys(job for job, _ in held if job.job_id in self._jobs):
            stepped = job.progress(job.share(batch, seconds))
            if stepped is None:
                continue
            if job.job_id in firsts and job.wants_preview():
                self._previews.append((job, stepped, firsts[job.job_id].clone()))
            else:
                outcomes.append(stepped)
        return outcomes

    def _split(self, batch: Batch) -> list[Outcome]:
        """After a call that ran out of memory: smaller ones from now on; who fits none alone fails."""
        outcomes: list[Outcome] = [OutOfMemory(batch.model, "denoise", batch.padded_rows)]
        if batch.strict or len(batch.slots) == 1:
            stuck = [slot.job_id for slot in batch.slots if slot.strict or not batch.strict]
            error = _too_large(f"a call of {batch.padded_rows} rows")
            return outcomes + [self._fail(self._jobs[job_id], error) for job_id in dict.fromkeys(stuck)]
        self._scheduler.lower_ceiling(batch.model, batch.group.shape, max(1, batch.rows // 2))
        return outcomes

    def _show(self, job: EngineJob, stepped: Stepped, x0: Tensor) -> list[Outcome]:
        picture = or_none(lambda: self._decoder.glance(job, x0))
        return [stepped if picture is None else replace(stepped, preview=preview(picture))]

    def _decode(self, alone: EngineJob | None) -> list[Outcome]:
        began = self._clock()
        chunk = self._decoder.next_chunk(alone)
        pictures = or_none(lambda: self._decoder.decode(chunk))
        if pictures is None:
            return self._halve(chunk)
        share = (self._clock() - began) / len(chunk)
        outcomes: list[Outcome] = []
        for item, decoded in zip(chunk, pictures, strict=True):
            outcomes += self._finish(item, decoded, share)
        return outcomes

    def _finish(self, item: Undecoded, decoded: Tensor, share: float) -> list[Outcome]:
        job, index, began = item.job, item.index, self._clock()
        if job.job_id not in self._jobs:
            return []  # an image of the same chunk failed it
        try:
            picture = job.answer(decoded)
        except LatentdError as error:
            return [self._fail(job, error)]
        seconds = share + self._clock() - began
        job.unfinished.discard(index)
        if not job.unfinished:
            self.drop(job.job_id)
        denoise_s = job.pictures[index].denoise_s
        return [Finished(job.job_id, index, picture, denoise_s, seconds, job.blue.latent_shape)]

    def _halve(self, chunk: list[Undecoded]) -> list[Outcome]:
        model = chunk[0].job.blue.model.id
        outcomes: list[Outcome] = [OutOfMemory(model, "decode", len(chunk))]
        if len(chunk) == 1:
            return [*outcomes, self._fail(chunk[0].job, _too_large("decoding one picture"))]
        self._decoder.put_back(chunk)
        return outcomes


def run(engine: Engine, admission: Admission, on_outcome: Callable[[Outcome], None]) -> list[Image.Image]:
    """One job from its admission to its pictures, each outcome shown to the caller.

    Raises:
        LatentdError: the job failed.
    """
    engine.admit(admission)
    pictures: dict[int, Image.Image] = {}
    while engine.busy:
        for outcome in engine.turn():
            on_outcome(outcome)
            if isinstance(outcome, Failed):
                raise outcome.error
            if isinstance(outcome, Finished):
                pictures[outcome.index] = outcome.picture
    return [pictures[index] for index in sorted(pictures)]


def _deadline_missed(job: EngineJob) -> DeadlineMissed:
    bound = job.admission.request.deadline_ms
    detail = f"deadline_ms {bound} passed at step {job.step} of {job.steps}"
    return DeadlineMissed(detail, field="deadline_ms", value=bound)


def _not_finite(job: EngineJob) -> JobFailed:
    detail = f"NaN or infinite latents at step {job.step + 1} of {job.steps}"
    return JobFailed(detail, field="latents", value="NaN", bound="finite")


def _too_large(what: str) -> JobFailed:
    return JobFailed(f"{what} doesn't fit in this device's memory", field="width", bound="memory")
