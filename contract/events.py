"""What workers tell of a running job beside what its record says: notes for its trace, and what its pictures look like.

Sums are over one execution: the newest of them is enough, however many steps were trimmed.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from contract.base import Wire

STEP_EVENTS_KEPT = 1000
TELL_S = 0.25  # between a worker's step events: steps that follow each other faster are told together
TRACE = "trace"  # field of a stream entry with what is noted for the trace; type of entries that have nothing else


class Claimed(Wire):
    """An execution began."""

    worker: str
    execution: str


class Returned(Wire):
    """It ended before the job did: its worker stopped, set the job apart, or died."""

    why: Literal["handed_back", "worker_died"]


class EarlierStep(NamedTuple):
    """A step that is told with the one it came before, as an array of numbers: most of a stream would be names else."""

    step: int
    ago_ms: int  # before the entry was written
    rows: int
    call_rows: int
    jobs: int
    call_ms: float


class Shared(Wire):
    """The UNet call that ended a step, and what the job's calls have cost so far."""

    rows: int  # of the job
    call_rows: int  # of all jobs
    jobs: int
    call_s: float
    encode_s: float
    denoise_s: float
    gpu_s: float  # its rows' part of the seconds of each call
    before: tuple[EarlierStep, ...] = Field(default=(), exclude_if=lambda steps: not steps)


class Kept(Wire):
    """Seconds that images have taken behind the denoising."""

    decode_s: float
    store_s: float


class Preview(Wire):
    """What a picture looked like at a step of its job: a small WebP as base64."""

    step: int
    image: str


class Previews(Wire):
    """The newest preview of each picture of a job that has one, by the picture's number."""

    newest: dict[int, Preview]
