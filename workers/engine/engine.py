"""The engine: keeps admitted jobs and does one unit of work a turn, so that its caller can claim and cancel between.

It knows neither queue nor storage; the queue's worker and the commands without a server drive the same one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from contract.base import Lane
from contract.common import Numerics
from contract.stages import models_of
from core.errors import DeadlineMissed, JobFailed, LatentdError
from core.settings import MAX_PIXELS
from models.add_ons.controls.library import ControlLibrary
from models.add_ons.embeddings.library import EmbeddingLibrary
from models.add_ons.loras.library import LoraLibrary
from models.add_ons.shelf import Kept
from models.pipeline.pipeline import LatentDiffusion
from workers.engine.conditioning import Conditions, controls, placed
from workers.engine.decoding import UndecodedImage, decode
from workers.engine.denoise import denoise
from workers.engine.device import Aside, Side, Timed, configure, numerics_of, or_none, to_host
from workers.engine.engine_job import EngineJob, Passed
from workers.engine.job_spec import JobSpec
from workers.engine.kinds import prepare, stages_of
from workers.engine.latent_state import LatentState
from workers.engine.messages import Aborted, Admission, Called, Enlarged, Finished, Outcome, OutOfMemory, Prepared
from workers.engine.scheduler import Batch, Policy, Slot
from workers.engine.turn_policy import CallUNet, Decode, EndLate, Enlarge, Prepare, Preview, TurnPolicy
from workers.prompts import PromptCache


@dataclass(frozen=True, slots=True)
class UNetCall:
    """A call that was begun, and what there is to report of it."""

    batch: Batch
    jobs: Sequence[EngineJob]
    images: Sequence[LatentState]
    acting: Sequence[int]  # ControlNets of each image
    passed: Mapping[EngineJob, Passed]  # as it was when the call was begun
    finite: Tensor  # n, on the host once `timed` has ended
    timed: Timed


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images whose decoding was begun at `began`."""

    images: Sequence[UndecodedImage]
    pixels: Aside
    began: float


class Engine:
    """Denoises and decodes the images of many jobs on one device.

    `models` may change between turns, but for those of admitted jobs. `max_rows` bounds a UNet call in fast mode; calls
    that carry a strict slot have exactly `strict_rows` rows. `as_gpu`: what a call or a decoding gave is read after the
    next call was begun, so that the device never waits, and fast calls are padded to few sizes, as captured ones need.
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
        loras: LoraLibrary | None = None,
        embeddings: EmbeddingLibrary | None = None,
        controlnets: ControlLibrary | None = None,
        as_gpu: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        configure(threads)
        self._models = models
        self._threads, self._strict_rows = threads, strict_rows
        self._max_pixels = max_pixels
        self._clock = clock
        self._policy = TurnPolicy(clock, Policy(max_rows, strict_rows, buckets=as_gpu))
        self._prompts = PromptCache()
        self._loras = loras or LoraLibrary({}, Kept(0))
        self._embeddings = embeddings or EmbeddingLibrary({})
        self._controlnets = controlnets or ControlLibrary({}, Kept(0))
        self._jobs: dict[str, EngineJob] = {}
        self._device = torch.device(device)
        self._side = Side(self._device)
        self._reads_late = as_gpu
        self._call: UNetCall | None = None
        self._chunk: Chunk | None = None

    @property
    def models(self) -> Mapping[str, LatentDiffusion]:
        """The models that are loaded now, by id."""
        return self._models

    def numerics(self, dtype: torch.dtype, is_packed: bool) -> Numerics:
        """Name what strict bytes of a model in this precision depend on here."""
        return numerics_of(
            self._device, dtype, is_packed=is_packed, threads=self._threads, strict_rows=self._strict_rows
        )

    @property
    def loras(self) -> frozenset[str]:
        """The LoRAs that jobs may name, by id."""
        return self._loras.ids

    @property
    def embeddings(self) -> frozenset[str]:
        """The embeddings that prompts may name."""
        return self._embeddings.names

    @property
    def controlnets(self) -> frozenset[str]:
        """The ControlNets that jobs may name, by id."""
        return self._controlnets.ids

    @property
    def busy(self) -> bool:
        """Whether there is a job, or what one left that was canceled while the device was at it."""
        return bool(self._jobs) or self._call is not None or self._chunk is not None

    def capacity(self, model: str, lane: Lane = "interactive") -> int:
        """Return how many more images of `model` may be admitted now from `lane`."""
        return self._policy.capacity(model, lane)

    def admit(self, admission: Admission) -> None:
        """Take a job; its first outcome comes from a later `turn`.

        Raises:
            LatentdError: the job can't succeed however often it runs.
        """
        request = admission.request
        for model in models_of(request):
            if model not in self._models:
                raise JobFailed(f"model {model} isn't loaded here", field="model", bound=[*self._models])
        job = EngineJob(admission, stages_of(request, admission.pictures, self._models, self._max_pixels))
        self._jobs[job.job_id] = job
        self._policy.admit(job.job_id, request.model, request.num_images, admission.deadline)

    def drop(self, job_id: str) -> None:
        """Forget a job; no outcome of it comes any more. A job that isn't here is let pass."""
        self._jobs.pop(job_id, None)
        self._policy.drop(job_id)

    def isolate(self, job_id: str) -> None:
        """Let all other jobs stand still until this one, which may not be admitted yet, rejoins them or is dropped."""
        self._policy.isolate(job_id)

    def rejoin(self) -> None:
        """Let the isolated job share calls again."""
        self._policy.rejoin()

    def snapshot(self, job_id: str) -> bytes | None:
        """Return the job's state, for `Admission.snapshot` of a later execution; None where there is none yet."""
        job = self._jobs.get(job_id)
        return None if job is None else job.snapshot()

    @torch.inference_mode()
    def turn(self) -> list[Outcome]:
        """Do one preparation, one job's previews, one decoding chunk or one UNet call; nothing when idle.

        Of a call or chunk on a GPU the outcomes come with a later turn, so that the next call is there before it ends.
        """
        if self._chunk is not None and self._chunk.pixels.ready():
            return self._decoded()
        turn = self._policy.next()
        if isinstance(turn, CallUNet):
            return self._denoise(turn.batch)
        if isinstance(turn, Preview):  # of a step that comes before those of the call that isn't read yet
            return [*self._jobs[turn.job_id].previewed()]
        outcomes = self._read()
        match turn:
            case EndLate(job_ids):
                jobs = [job for job_id in job_ids if (job := self._jobs.get(job_id)) is not None]
                outcomes += [self._abort(job, _deadline_missed(job)) for job in jobs]
            case Prepare(job_id):
                outcomes += self._prepare(self._jobs[job_id])
            case Enlarge(slot):
                outcomes += self._enlarge(slot)
            case Decode(slots):
                outcomes += self._decode(slots)
            case None:
                outcomes += self._decoded()
        return outcomes

    def _abort(self, job: EngineJob, error: LatentdError) -> Outcome:
        self.drop(job.job_id)
        return Aborted(job.job_id, error)

    def _prepare(self, job: EngineJob) -> list[Outcome]:
        shape = job.specs[0].latent_shape

        def prepared(seconds: float) -> Outcome:
            return Prepared(job.job_id, seconds, job.step, job.steps, shape)

        return self._begin(job, lambda: self._start(job), prepared, "encoding its pictures")

    def _enlarge(self, slot: Slot) -> list[Outcome]:
        job = self._jobs.get(slot.job_id)
        if job is None:
            return []  # what was just read of its last call failed it
        enlarged = partial(Enlarged, job.job_id)
        return self._begin(job, lambda: self._go_on(job, slot.index), enlarged, "enlarging its picture")

    def _begin(
        self, job: EngineJob, work: Callable[[], tuple[list[Slot], float]], done: Callable[[float], Outcome], what: str
    ) -> list[Outcome]:
        """Let those images take part that `work` brings to a stage, and report its seconds, or why it can't be."""
        try:
            begun = or_none(work)
        except LatentdError as error:
            return [self._abort(job, error)]
        if begun is not None:
            slots, seconds = begun
            self._policy.start(slots)
            return [done(seconds)]
        if self._chunk is not None:  # without its memory there may be enough
            return self._decoded() + (self._begin(job, work, done, what) if job.job_id in self._jobs else [])
        return [OutOfMemory(job.admission.request.model, "encode", 1), self._abort(job, _too_large(what))]

    def _start(self, job: EngineJob) -> tuple[list[Slot], float]:
        job.specs = [self._equipped(spec) for spec in job.specs]
        began = self._clock()  # the next job finds what was read from the disk for this one
        job.start(self._conditions)
        return [*job.slots()], self._clock() - began

    def _go_on(self, job: EngineJob, index: int) -> tuple[list[Slot], float]:
        began = self._clock()
        return [job.enlarge(index, self._conditions)], self._clock() - began

    def _equipped(self, spec: JobSpec) -> JobSpec:
        """Load what is added to the model of a stage."""
        model, request = spec.model, spec.request
        adapters = self._loras.adapters(model, request.applied_loras)
        embeddings = self._embeddings.embeddings(model, request.applied_embeddings)
        acting = controls(spec, self._controlnets)
        return replace(spec, adapters=adapters, embeddings=embeddings, controls=acting)

    def _conditions(self, spec: JobSpec) -> Conditions:
        return placed(prepare(spec, self._prompts), spec.model)

    def _denoise(self, batch: Batch) -> list[Outcome]:
        timed = Timed(self._device, self._clock)
        jobs = [self._jobs[slot.job_id] for slot in batch.slots]
        images = [job.images[slot.index] for job, slot in zip(jobs, batch.slots, strict=True)]
        acting = [len(image.acting) for image in images]
        x0 = or_none(lambda: self._denoised(batch, images))  # n c h w
        if x0 is None:
            beside = self._chunk is not None  # without its memory the same call may have enough
            return self._read() + (self._decoded() if beside else self._split(batch))
        finite = to_host(torch.stack([image.z_t for image in images]).isfinite().flatten(1).all(1))
        timed.stop()
        self._policy.advance(batch)
        predicted: dict[EngineJob, dict[int, Tensor]] = {}
        for job, slot, each in zip(jobs, batch.slots, x0, strict=True):
            predicted.setdefault(job, {})[slot.index] = each
        passed = {job: job.passed(of_it) for job, of_it in predicted.items()}
        before, self._call = self._call, UNetCall(batch, jobs, images, acting, passed, finite, timed)
        return self._report(before, own_turn=True) if self._reads_late else self._read(own_turn=True)

    def _denoised(self, batch: Batch, images: list[LatentState]) -> Tensor:
        return denoise(self._models[batch.model], images, batch.padded_rows, strict=batch.strict)

    def _read(self, *, own_turn: bool = False) -> list[Outcome]:
        """Report the call that hasn't been yet."""
        call, self._call = self._call, None
        return self._report(call, own_turn=own_turn)

    def _report(self, call: UNetCall | None, *, own_turn: bool) -> list[Outcome]:
        if call is None:
            return []
        seconds = call.timed.seconds()
        for image in call.images:
            image.denoise_s += seconds
        here = [job for job in call.jobs if self._jobs.get(job.job_id) is job]
        finite = call.finite.tolist()
        broken = dict.fromkeys(job for job, good in zip(call.jobs, finite, strict=True) if job in here and not good)
        aborted = [self._abort(job, _not_finite(job)) for job in broken]
        return [_called(call, seconds, own_turn), *aborted, *self._progress(call, seconds)]

    def _progress(self, call: UNetCall, seconds: float) -> list[Outcome]:
        """Report how far each job of a call is; where previews are due they come with it, next turn."""
        outcomes: list[Outcome] = []
        for job, passed in call.passed.items():
            if self._jobs.get(job.job_id) is not job:
                continue
            outcomes += job.progress(job.share(call.batch, call.acting, seconds), passed)
            if job.sketches:
                self._policy.preview(job.job_id)
        return outcomes

    def _split(self, batch: Batch) -> list[Outcome]:
        """Answer a call that ran out of memory: smaller ones from now on; who fits in none fails."""
        outcomes: list[Outcome] = [OutOfMemory(batch.model, "denoise", batch.padded_rows)]
        if len(batch.slots) > 1:
            self._policy.split_call(batch)
            return outcomes
        job = self._jobs.get(batch.slots[0].job_id)  # None: what was just read of its last call failed it
        return outcomes + ([self._abort(job, _too_large(f"a call of {batch.padded_rows} rows"))] if job else [])

    def _decode(self, slots: tuple[Slot, ...]) -> list[Outcome]:
        """Begin a chunk, after the one before has ended."""
        outcomes, began = self._decoded(), self._clock()
        images = [self._jobs[slot.job_id].undecoded(slot.index) for slot in slots if slot.job_id in self._jobs]
        pixels = or_none(lambda: decode(images, self._side)) if images else None
        if pixels is not None:
            self._chunk = Chunk(images, pixels, began)
        elif images:
            outcomes += self._decode_fewer(slots)
        return outcomes if self._reads_late else outcomes + self._decoded()

    def _decoded(self) -> list[Outcome]:
        """Report the chunk that was begun, once it has ended."""
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return []
        pictures = chunk.pixels.result()  # b 3 H W
        share = (self._clock() - chunk.began) / len(chunk.images)
        outcomes: list[Outcome] = []
        for image, decoded in zip(chunk.images, pictures, strict=True):
            outcomes += self._finish(image, decoded, share)
        return outcomes

    def _finish(self, image: UndecodedImage, decoded: Tensor, share: float) -> list[Outcome]:
        job, began = self._jobs.get(image.job_id), self._clock()
        if job is None or job.last is not image.spec:
            return []  # an image of the same chunk failed it, or it was dropped meanwhile
        try:
            picture = job.answer(decoded)
        except LatentdError as error:
            return [self._abort(job, error)]
        seconds = share + self._clock() - began
        job.unfinished.discard(image.index)
        if not job.unfinished:
            self.drop(job.job_id)
        denoise_s = job.images[image.index].denoise_s
        return [Finished(job.job_id, image.index, picture, denoise_s, seconds, job.last.latent_shape)]

    def _decode_fewer(self, slots: tuple[Slot, ...]) -> list[Outcome]:
        """Answer a chunk that ran out of memory: smaller ones from now on; an image that doesn't fit alone fails."""
        outcomes: list[Outcome] = [OutOfMemory(slots[0].model, "decode", len(slots))]
        if len(slots) == 1:
            return [*outcomes, self._abort(self._jobs[slots[0].job_id], _too_large("decoding one picture"))]
        self._policy.halve_chunk(slots)
        return outcomes


def run(engine: Engine, admission: Admission, on_outcome: Callable[[Outcome], None]) -> list[Image.Image]:
    """Take one job from its admission to its pictures; each outcome is shown to the caller.

    Raises:
        LatentdError: the job failed.
    """
    engine.admit(admission)
    pictures: dict[int, Image.Image] = {}
    while engine.busy:
        for outcome in engine.turn():
            on_outcome(outcome)
            if isinstance(outcome, Aborted):
                raise outcome.error
            if isinstance(outcome, Finished):
                pictures[outcome.index] = outcome.picture
    return [pictures[index] for index in sorted(pictures)]


def _called(call: UNetCall, seconds: float, own_turn: bool) -> Called:
    batch = call.batch
    rows, shape = (batch.rows, batch.padded_rows), batch.group.shape
    controlled = sum(count * rows for count, rows in zip(call.acting, batch.slot_rows, strict=True))
    return Called(batch.model, *rows, batch.strict, seconds, len(batch.slots), shape, controlled, own_turn)


def _deadline_missed(job: EngineJob) -> DeadlineMissed:
    bound = job.admission.request.deadline_ms
    detail = f"deadline_ms {bound} passed at step {job.step} of {job.steps}"
    return DeadlineMissed(detail, field="deadline_ms", value=bound)


def _not_finite(job: EngineJob) -> JobFailed:
    detail = f"NaN or infinite latents at step {job.step + 1} of {job.steps}"
    return JobFailed(detail, field="latents", value="NaN", bound="finite")


def _too_large(what: str) -> JobFailed:
    return JobFailed(f"{what} doesn't fit in this device's memory", field="width", bound="memory")
