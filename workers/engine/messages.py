"""What goes into the engine and what comes out of it; no queue, no storage, no network in any of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image

from contract.measurements import Shape
from contract.request import JobRequest
from core.errors import LatentdError


@dataclass(frozen=True, slots=True)
class Admission:
    """A job as the engine takes it.

    `pictures` are those that were uploaded, by the names of their fields, as `read_files` reads them.
    `deadline` is a time of the engine's clock.
    `snapshot` is the state that an earlier execution saved.
    """

    job_id: str
    request: JobRequest
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    deadline: float | None = None
    snapshot: bytes | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The job's prompts and pictures are encoded; it takes part in calls from now on, after `step` resumed ones of
    its `steps`.

    `shape` is its latents' (c, h, w), here and below.
    """

    job_id: str
    seconds: float
    step: int
    steps: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Enlarged:
    """An image of the job is in its next stage, for which it was decoded and encoded in `seconds`."""

    job_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Share:
    """A job's part in a UNet call: `rows` of `call_rows` real ones; `denoise_s` sums the seconds of all its calls so
    far, `gpu_s` its rows' part of them."""

    rows: int
    call_rows: int
    jobs: int
    call_s: float
    denoise_s: float
    gpu_s: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """The job is at `step` of `steps`, summed over its images; `share` is its part in the call that got it there.

    `previews` are small WebPs, by their numbers, of what those images will be that just passed a step of which
    `preview_every` asks for one.
    """

    job_id: str
    step: int
    steps: int
    share: Share
    previews: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finished:
    """Image `index` of a job at its answered size. The job ends with its last one.

    `denoise_s` are the seconds of all calls that the image took part in, `decode_s` its share of a decoding chunk.
    """

    job_id: str
    index: int
    picture: Image.Image
    denoise_s: float
    decode_s: float
    shape: Shape


@dataclass(frozen=True, slots=True)
class Aborted:
    """The job ended without its remaining images; the others go on."""

    job_id: str
    error: LatentdError


@dataclass(frozen=True, slots=True)
class Called:
    """One UNet call of `rows` rows, to which `padded_rows - rows` fillers were added; rows of ControlNets beside it.

    `own_turn`: the turn that tells of it did nothing but calls; on a GPU a preparation, say, reads the call before it.
    """

    model: str
    rows: int
    padded_rows: int
    strict: bool
    seconds: float
    slots: int
    shape: Shape
    control_rows: int = 0
    own_turn: bool = True


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A call or decoding chunk of `size` rows or pictures didn't fit; smaller ones are tried from now on."""

    model: str
    stage: str
    size: int


Outcome: TypeAlias = Prepared | Enlarged | Stepped | Finished | Aborted | Called | OutOfMemory
