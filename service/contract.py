"""What travels between gateway and workers: the resolved request, model cards, the job, its events and the Redis keys.

Pydantic only: no torch, no FastAPI. A worker that meets another `CONTRACT_VERSION` hands the job back to its queue.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, computed_field

from latentd.errors import Problem

CONTRACT_VERSION = 1
JOB_FUNCTION = "workers.worker.run"  # what `rq info` shows; our workers never import it by name

Kind: TypeAlias = Literal["txt2img", "inpaint", "upscale", "img2img", "class2img", "semantic2img"]
Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "canceled"]
Lane: TypeAlias = Literal["interactive", "bulk"]
OutputFormat: TypeAlias = Literal["png", "jpeg", "webp"]
MaskMode: TypeAlias = Literal["white", "black", "alpha", "auto"]
Determinism: TypeAlias = Literal["fast", "strict"]
EventType: TypeAlias = Literal["queued", "started", "step", "image", "succeeded", "failed", "canceled"]

LANES: tuple[Lane, ...] = ("interactive", "bulk")
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "canceled"})
STEP_EVENTS_KEPT = 1000
WAKES = 64
SEEDS = 2**32
IMAGE_ID = re.compile("(.+)-(0|[1-9][0-9]?)")


class Wire(BaseModel):
    """Base of all that travels: unknown fields are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """JSON that validates again: without computed fields."""
        return self.model_dump_json(round_trip=True)


class CardDefaults(Wire):
    """What a request of this model gets where it says nothing."""

    steps: int
    sampler: str
    guidance_scale: float = 1.0
    eta: float = 0.0
    strength: float = 1.0
    img2img_strength: float = 0.75
    noise_level: int | None = None


class ModelCard(Wire):
    """`card.json` beside each checkpoint; workers publish it to Redis, the gateway resolves requests by it."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    description: str
    hash: str = Field(description="SHA-256 over the weight files, in order of their names.")
    tasks: tuple[Kind, ...]
    native_size: int = Field(description="Width and height of the training pictures, in pixels.")
    latent_factor: int = Field(description="Pixels of the decoded picture per latent pixel, f.")
    scale: int = Field(default=1, description="How many times larger than its input an upscaler's answer is.")
    defaults: CardDefaults
    fields: tuple[str, ...] = Field(description="Request fields that this model uses.")
    prediction_type: Literal["eps", "v", "x0"]
    samplers: tuple[str, ...]
    token_window: int | None = Field(default=None, description="Tokens of a prompt that are read, specials included.")
    tokenizer: str | None = Field(default=None, description="tokenizer.json, relative to the card.")
    classes: int | None = Field(default=None, description="class_id is below it.")
    class_names: tuple[str, ...] | None = Field(default=None, description="Names by class_id, for `label`.")
    map_classes: int | None = Field(default=None, description="Pixels of a label map are below it.")
    noise_levels: int | None = Field(default=None, description="noise_level is below it.")
    licence: str
    attribution: tuple[str, ...] = ()


class Upload(Wire):
    """An uploaded picture as it was stored: bytes unchanged; sizes after EXIF rotation."""

    path: str
    sha256: str
    bytes: int
    width: int
    height: int


class Numerics(Wire):
    """What `strict` fixes for a job's life: equal numerics and build give equal bytes."""

    device: str
    dtype: str
    threads: int
    rows: int
    memory_format: str
    compiled: bool
    torch: str


class JobRequest(Wire):
    """A request with every parameter resolved; image k has seed (seed + k) mod 2³²."""

    kind: Kind
    model: str
    prompt: str = ""
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float = 1.0
    sampler: str
    eta: float = 0.0
    seed: int = Field(ge=0, lt=SEEDS)
    num_images: int = 1
    output_format: OutputFormat = "png"
    priority: Lane = "interactive"
    deadline_ms: int | None = None
    determinism: Determinism = "fast"
    preview_every: int = 0
    image: Upload | None = None
    mask: Upload | None = None
    mask_mode: MaskMode | None = None
    feather: int | None = None
    strength: float | None = None
    class_id: int | None = None
    noise_level: int | None = None
    webhook_url: str | None = Field(default=None, description="Where the gateway tells of the job's end.")
    numerics: Numerics | None = Field(default=None, description="Set when a strict job first starts.")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def seeds(self) -> list[int]:
        return [(self.seed + k) % SEEDS for k in range(self.num_images)]

    @property
    def guided(self) -> bool:
        """Whether each step needs two rows, with and without the condition."""
        return self.guidance_scale != 1.0

    @property
    def run_steps(self) -> int:
        """Steps that are run, over all images: `strength` < 1 leaves the last int(steps · strength), at least one."""
        return max(1, int(self.steps * (self.strength or 1.0))) * self.num_images

    @property
    def rows(self) -> int:
        """Network evaluations of the whole job, the unit of queue estimates."""
        return self.run_steps * (2 if self.guided else 1)

    def arguments(self) -> dict[str, Any]:
        """As JSON for the RQ job."""
        return self.model_dump(mode="json", round_trip=True)


class JobWarning(Wire):
    """Something was changed or cut, and what."""

    field: str
    message: str


class JobRecord(Wire):
    """The part of a job that never changes, written once before it is enqueued."""

    id: str
    created_at: datetime
    request: JobRequest
    warnings: tuple[JobWarning, ...] = ()
    body_hash: str = Field(default="", description="Digest of the request as sent, for Idempotency-Key.")
    owner: str = Field(default="", description="Id of the API key that made it; empty where keys are off.")
    charged_s: float = Field(default=0.0, description="GPU-seconds taken from the key's budget of that day.")
    request_id: str = Field(default="", description="X-Request-ID of the request that made it, for logs.")

    @property
    def names(self) -> dict[str, str]:
        """What every log line about the job carries."""
        return {"job_id": self.id, "request_id": self.request_id}


class ImageInfo(Wire):
    """One stored picture of a job."""

    id: str
    url: str
    seed: int
    width: int
    height: int
    format: OutputFormat
    bytes: int
    sha256: str


class StoredImage(Wire):
    """An image that is there before its job has ended; `execution` locates the object."""

    execution: str
    info: ImageInfo


class Timings(Wire):
    """Seconds that a job spent in each stage."""

    queue_s: float | None = None
    denoise_s: float | None = None
    decode_s: float | None = None
    store_s: float | None = None


class JobResult(Wire):
    """What the terminal transaction of a succeeded job writes; `execution` locates the objects."""

    execution: str
    images: tuple[ImageInfo, ...]
    timings: Timings


class Progress(Wire):
    """Totals over all images of the job."""

    step: int
    steps: int


class Job(Wire):
    """The job as clients see it."""

    id: str
    kind: Kind
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    position: int | None = Field(default=None, description="Jobs before it in its lane; null unless queued.")
    eta_s: float | None = Field(default=None, description="Predicted seconds to the end, from the measured step rate.")
    progress: Progress
    request: JobRequest
    images: tuple[ImageInfo, ...] = ()
    error: Problem | None = None
    warnings: tuple[JobWarning, ...] = ()
    timings: Timings = Timings()


class Rates(Wire):
    """Seconds that a model's workers measured; the gateway predicts waits by them."""

    row_s: float = Field(description="One row's share of a full UNet call.")
    step_s: float = Field(description="One UNet call with a single image's rows.")
    image_s: float = Field(description="Decoding one image, encoding its file and storing it.")


class ShapeTimes(Wire):
    """Seconds that a worker needs for latents of one shape (c, h, w)."""

    shape: tuple[int, int, int]
    calls: dict[int, float] = Field(description="Rows of a UNet call, fillers included, and its seconds.")
    encode_s: dict[Kind, float] = Field(description="Prompts and pictures of one job, by its kind.")
    decode_s: float | None = Field(description="Decoding one image.")


class StepTimes(Wire):
    """A model's step-time table: what `latentd plan` simulates with."""

    model: str
    latent_factor: int
    shapes: tuple[ShapeTimes, ...]
    store_s: float | None = Field(default=None, description="Encoding a file and storing it, beside the GPU.")
    round_s: float | None = Field(default=None, description="A round of the worker's loop beside its computing.")
    move_s: float | None = Field(default=None, description="What one claimed or ended job adds to a round.")


# Redis keys. RQ keeps its own under rq:*; a job's RQ id is its id here.


def queue_name(model: str, lane: Lane) -> str:
    return f"latentd.{model}.{lane}"


def job_key(job_id: str) -> str:
    """Hash: record, status, execution, started_at, ended_at, step, steps, numerics, result, error, cancel.

    `image:{k}` is the StoredImage k of a running job. `deaths` and `deaths_alone` count workers that died with the job
    since its last savepoint.
    """
    return f"latentd:job:{job_id}"


def events_key(job_id: str) -> str:
    """Stream of (type, data): its ids are the SSE ids."""
    return f"latentd:events:{job_id}"


def state_key(job_id: str) -> str:
    """Hash: what a later execution goes on from: execution, step, model (its hash), and `data` or its `path`."""
    return f"latentd:state:{job_id}"


def alone_key(worker: str) -> str:
    """String: id of the job that a worker runs while its others stand still."""
    return f"latentd:alone:{worker}"


def preview_key(job_id: str) -> str:
    """String, minutes of life: JSON {step, image: base64 WebP}."""
    return f"latentd:preview:{job_id}"


def gone_key(job_id: str) -> str:
    """String: the owner of an expired or purged job, for LATENTD_GONE_S; other keys get 404, not 410."""
    return f"latentd:gone:{job_id}"


def deliveries_key(job_id: str) -> str:
    """List of JSON: the log of the job's webhook, with the retention of the job."""
    return f"latentd:deliveries:{job_id}"


def keys_of(job_id: str) -> tuple[str, ...]:
    """Every key that is this job's alone, but for its tombstone."""
    return (job_key(job_id), events_key(job_id), preview_key(job_id), state_key(job_id), deliveries_key(job_id))


def list_key(owner: str) -> str:
    """Sorted set: job id → created_at in Unix milliseconds, of one API key's jobs; of all jobs for the empty owner."""
    return f"{JOBS_KEY}:{owner}" if owner else JOBS_KEY


def work_key(model: str, lane: Lane) -> str:
    """Hash: job id → rows, of jobs that wait or run; the sum is the lane's backlog."""
    return f"latentd:work:{model}:{lane}"


def serving_key(model: str) -> str:
    """Sorted set: worker name → Unix time until which it counts as alive."""
    return f"latentd:serving:{model}"


def wake_key(queue: str) -> str:
    """List: an entry for each job that came into an RQ queue lately, WAKES at most; idle workers wait for one. A hint:
    lost or left over, it costs a look at the queue or half a second, never a job."""
    return f"latentd:wake:{queue}"


def places_key(machine: str) -> str:
    """Hash: worker name → its place, of the workers that share a machine's process ids (workers.places)."""
    return f"latentd:places:{machine}"


def lease_key(what: str) -> str:
    """String, seconds of life: name of the worker that sweeps an RQ queue, or the deadlines."""
    return f"latentd:lease:{what}"


def step_times_key(model: str) -> str:
    """Hash: cell of the step-time table → seconds; its cells are read and written by workers.steptimes alone."""
    return f"latentd:steptimes:{model}"


JOBS_KEY = "latentd:jobs"  # sorted set: job id → created_at in Unix milliseconds
DEPLOYMENT_KEY = "latentd:deployment"  # string: the id that this Redis shares with its storage
CARDS_KEY = "latentd:cards"  # hash: model id → card JSON
RATES_KEY = "latentd:rates"  # hash: model id → Rates JSON
OUTBOX_KEY = "latentd:outbox"  # stream of (job, type): ended jobs with a webhook_url, type as their status
DEADLINES_KEY = "latentd:deadlines"  # sorted set: job id → deadline in Unix milliseconds
RETRIES_KEY = "latentd:retries"  # hash: why (marks.Returned) → jobs queued again, ever
UNSERVED_KEY = "latentd:unserved"  # hash: kind:model:lane:status (unserved_field) → jobs ended without a worker, ever
ENDS_CHANNEL = "latentd:ends"  # publishes ids of jobs as they end
CANCELING_KEY = "latentd:canceling"  # set of running job ids that a client wants ended


def unserved_field(kind: Kind, model: str, lane: Lane, status: Status) -> str:
    """Field of UNSERVED_KEY; none of the four holds a colon."""
    return f"{kind}:{model}:{lane}:{status}"


def image_id(job_id: str, index: int) -> str:
    return f"{job_id}-{index}"


def stored_field(index: int) -> str:
    """Field of the job's hash that describes image `index` before the job's end."""
    return f"image:{index}"


def parse_image_id(value: str) -> tuple[str, int] | None:
    """Job id and index of an image id, None if it can't be one."""
    found = IMAGE_ID.fullmatch(value)
    return None if found is None else (found[1], int(found[2]))
