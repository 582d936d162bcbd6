"""What a worker does next, one turn at a time: pure logic on an injected clock, without torch, models or Redis.

The engine obeys it and the planner's simulated worker runs the same, so that a plan can't differ from the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from contract.base import Lane
from contract.measurements import Shape
from workers.engine.scheduler import Batch, Policy, Slot, StepScheduler

DECODE_CHUNK = 4  # images decoded at a time; activations of a decoder are its largest tensors


@dataclass(frozen=True, slots=True)
class EndLate:
    """End these jobs: their deadlines have passed."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Encode the prompts and pictures of a job."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Enlarge:
    """Make what this image's next stage begins with."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Preview:
    """Show what images of a job will be."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Decode:
    """Decode these images in one chunk."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class CallUNet:
    """Take these slots one row further."""

    batch: Batch


Turn: TypeAlias = EndLate | Prepare | Enlarge | Preview | Decode | CallUNet


@dataclass(frozen=True, slots=True)
class Unprepared:
    """A job that was admitted and has no slots yet."""

    model: str
    images: int


class TurnPolicy:
    """Knows what waits for which kind of turn, and which job is isolated: while one is, all others stand still."""

    def __init__(self, clock: Callable[[], float], policy: Policy) -> None:
        self._clock = clock
        self._scheduler = StepScheduler(clock, policy)
        self._deadlines: dict[str, float] = {}
        self._unprepared: dict[str, Unprepared] = {}
        self._previews: dict[str, None] = {}
        self._ended: list[Slot] = []  # at the end of a stage: those that go on wait to be enlarged, others for pixels
        self._chunks: dict[tuple[str, Shape], int] = {}  # most images of a decoding chunk, where that was learned
        self._isolated: dict[str, None] = {}
        self._decoded_last = False

    @property
    def isolated(self) -> str | None:
        """The job beside which nothing runs; of several the one that was isolated first."""
        return next(iter(self._isolated), None)

    def capacity(self, model: str, lane: Lane = "interactive") -> int:
        """Return how many more images of `model` may be admitted now from `lane`; none while a job is isolated."""
        if self._isolated:
            return 0
        waiting = sum(job.images for job in self._unprepared.values() if job.model == model)
        waiting += sum(slot.claimed_for == model for slot in self._ended)
        return max(0, self._scheduler.capacity(model, lane) - waiting)

    def admit(self, job_id: str, model: str, images: int, deadline: float | None = None) -> None:
        """Take a job that has to be prepared; `deadline` is a time of the clock."""
        self._unprepared[job_id] = Unprepared(model, images)
        if deadline is not None:
            self._deadlines[job_id] = deadline

    def isolate(self, job_id: str) -> None:
        """Let nothing but this job run until it rejoins the others or is dropped."""
        self._isolated[job_id] = None

    def rejoin(self) -> None:
        """Let the isolated job, if there is one, share calls with the others again."""
        self._isolated.pop(self.isolated or "", None)

    def start(self, slots: Iterable[Slot]) -> None:
        """Take the images of a prepared job, or one in its next stage; those without rows left only have to end it."""
        for slot in slots:
            if slot.done:
                self._ended.append(slot)
            else:
                self._scheduler.add(slot)

    def preview(self, job_id: str) -> None:
        """Show what is due of the job before the next call."""
        self._previews[job_id] = None

    def advance(self, batch: Batch) -> None:
        """Count a UNet call; images at the end of their plans are decoded next, or go on to another stage."""
        self._ended += self._scheduler.advance(batch)

    def drop(self, job_id: str) -> None:
        """Forget all of a job."""
        self._scheduler.remove(job_id)
        self._ended = [slot for slot in self._ended if slot.job_id != job_id]
        for waiting in (self._unprepared, self._previews, self._deadlines, self._isolated):
            waiting.pop(job_id, None)

    def split_call(self, batch: Batch) -> None:
        """After a call that ran out of memory, the next ones are smaller; this one didn't count."""
        if batch.strict:
            self._scheduler.part_strict(batch.group)
        else:
            self._scheduler.lower_ceiling(batch.model, batch.group.shape, max(1, batch.padded_rows // 2))

    def halve_chunk(self, chunk: tuple[Slot, ...]) -> None:
        """After a decoding chunk that ran out of memory, half of it is the most; its images go first again."""
        self._chunks[chunk[0].model, chunk[0].shape] = max(1, len(chunk) // 2)
        self._ended = [*chunk, *self._ended]

    def next(self) -> Turn | None:
        """Choose what to do now; None when idle. What it names, but a call, is no longer waiting for its turn."""
        if late := self._late():
            return EndLate(late)
        if (job_id := self._first(self._unprepared)) is not None:
            del self._unprepared[job_id]
            return Prepare(job_id)
        if (job_id := self._first(self._previews)) is not None:
            del self._previews[job_id]
            return Preview(job_id)
        batch = self._scheduler.next_batch(self.isolated)
        # Calls and decoding chunks alternate, so that neither those who wait for pixels nor the others stall.
        if not (self._decoded_last and batch is not None) and (pixels := self._next_pixels()) is not None:
            self._decoded_last = True
            return pixels
        self._decoded_last = False
        return None if batch is None else CallUNet(batch)

    def _next_pixels(self) -> Enlarge | Decode | None:
        """Let go on what has waited longest at the end of a stage."""
        ended = [slot for slot in self._ended if self._runs(slot.job_id)]
        if not ended:
            return None
        if not ended[0].goes_on:
            return Decode(self._chunk(*ended))
        self._ended.remove(ended[0])
        return Enlarge(ended[0])

    def _late(self) -> tuple[str, ...]:
        now = self._clock()
        return tuple(job_id for job_id, deadline in self._deadlines.items() if deadline <= now)

    def _runs(self, job_id: str) -> bool:
        return self.isolated in (None, job_id)

    def _first(self, job_ids: Iterable[str]) -> str | None:
        return next((job_id for job_id in job_ids if self._runs(job_id)), None)

    def _chunk(self, first: Slot, *others: Slot) -> tuple[Slot, ...]:
        """Take an image, and those that can be decoded with it; a strict one is decoded by itself."""
        kind = (first.model, first.shape, False)
        limit = 1 if first.strict else self._chunks.get(kind[:2], DECODE_CHUNK)
        peers = [slot for slot in others if (slot.model, slot.shape, slot.goes_on) == kind and not slot.strict]
        chunk = (first, *peers[: limit - 1])
        self._ended = [slot for slot in self._ended if slot not in chunk]
        return chunk
