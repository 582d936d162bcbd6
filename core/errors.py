"""Every error that latentd raises on purpose, and the problem (RFC 9457) that a client sees of it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """RFC 9457 problem details, with the field, its value and its bound where one is at fault."""

    model_config = ConfigDict(extra="forbid")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
    value: Any = None
    bound: Any = None


class LatentdError(Exception):
    """Base of the tree: a message for people, and the HTTP status and slug that the edge answers with."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None, value: Any = None, bound: Any = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.value = value
        self.bound = bound

    def problem(self) -> Problem:
        return Problem(
            type=f"urn:latentd:problem:{self.slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            field=self.field,
            value=self.value,
            bound=self.bound,
        )


class InvalidRequest(LatentdError):
    """A field is out of its bounds, unknown, of the wrong type, or of no use to the chosen kind or model."""

    status, slug, title = 422, "invalid-request", "Invalid request"


class MalformedRequest(LatentdError):
    """The body can't be read as what its content type says."""

    status, slug, title = 400, "malformed-request", "Malformed request"


class Unauthorized(LatentdError):
    """No API key, or none that is known, where keys are on."""

    status, slug, title = 401, "unauthorized", "Unauthorized"


class Forbidden(LatentdError):
    """An unknown Host, a foreign Origin, or a key without the scope."""

    status, slug, title = 403, "forbidden", "Forbidden"


class NotFound(LatentdError):
    """No such job, image or model."""

    status, slug, title = 404, "not-found", "Not found"


class NotAcceptable(LatentdError):
    """The client accepts none of the media types that the call answers."""

    status, slug, title = 406, "not-acceptable", "Not acceptable"


class SlowClient(LatentdError):
    """The body comes too slowly."""

    status, slug, title = 408, "request-timeout", "Request timeout"


class HeadTooLarge(LatentdError):
    """The request's address and headers are too long."""

    status, slug, title = 431, "head-too-large", "Request header fields too large"


class Conflict(LatentdError):
    """The request contradicts what is there: a reused idempotency key, a job that is still running."""

    status, slug, title = 409, "conflict", "Conflict"


class NoCheckpoint(LatentdError):
    """No installed checkpoint can do the task; the detail names the command that installs one."""

    status, slug, title = 409, "no-checkpoint", "No checkpoint for this task"


class Gone(LatentdError):
    """The job or image expired or was purged."""

    status, slug, title = 410, "gone", "Gone"


class BodyTooLarge(LatentdError):
    """The body exceeds LATENTD_MAX_BODY_MB."""

    status, slug, title = 413, "body-too-large", "Body too large"


class UnsupportedMedia(LatentdError):
    """The content type is none that the endpoint reads."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class QueueFull(LatentdError):
    """The lane holds LATENTD_QUEUE_LIMIT jobs, or its wait makes the deadline impossible."""

    status, slug, title = 429, "queue-full", "Queue full"

    def __init__(self, detail: str, *, retry_after: int, field: str | None = None, value: Any = None) -> None:
        super().__init__(detail, field=field, value=value)
        self.retry_after = retry_after


class RateLimited(QueueFull):
    """The API key's requests a minute or GPU-seconds a day are used up."""

    slug, title = "rate-limited", "Rate limited"


class TooManyStreams(QueueFull):
    """The gateway has LATENTD_EVENT_STREAMS event streams open."""

    slug, title = "too-many-streams", "Too many event streams"


class DecodersBusy(QueueFull):
    """More pictures wait to be decoded than this gateway decodes in a moment."""

    status, slug, title = 503, "decoders-busy", "Decoders busy"


class BodiesBusy(QueueFull):
    """The gateway holds as much of requests' bodies as it may."""

    status, slug, title = 503, "bodies-busy", "Bodies busy"


class Unavailable(LatentdError):
    """Redis or the object storage doesn't answer."""

    status, slug, title = 503, "unavailable", "Unavailable"


class NewerRelease(Unavailable):
    """A newer release wrote what this one can't read: its own processes answer for it."""


class DeadlineMissed(LatentdError):
    """The job's `deadline_ms` passed before it finished."""

    status, slug, title = 504, "deadline-missed", "Deadline missed"


class DiskFull(LatentdError):
    """The storage's disk has less room than LATENTD_MIN_FREE_MB."""

    status, slug, title = 507, "disk-full", "Disk full"


class JobFailed(LatentdError):
    """A job that can't succeed however often it runs: bad input, NaN latents, a missing model."""

    status, slug, title = 500, "job-failed", "Job failed"


class DamagedImage(LatentdError):
    """What the storage holds isn't the image that was put there."""

    status, slug, title = 500, "damaged-image", "Damaged image"


class CheckpointError(LatentdError):
    """A checkpoint that doesn't load; the detail names the file, key or shape that is wrong."""

    status, slug, title = 500, "bad-checkpoint", "Checkpoint can't be used"


class ConfigurationError(LatentdError):
    """A setting or the machine makes a start impossible; commands print it and exit 1."""

    status, slug, title = 500, "configuration", "Configuration error"
