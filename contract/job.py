"""The job: its record, its result, and how clients see it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal, TypeAlias

from pydantic import Field

from contract.base import Kind, Lane, Recorded, Wire
from contract.common import OutputFormat
from contract.request import JobRequest
from core.errors import Problem

Status: TypeAlias = Literal["queued", "running", "succeeded", "failed", "canceled"]
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "canceled"})
IMAGE_ID = re.compile("(.+)-(0|[1-9][0-9]?)")
JOB_FUNCTION = "workers.worker.run"  # what `rq info` shows; our workers never import it by name


class JobWarning(Wire):
    """Something was changed or cut, and what."""

    field: str
    message: str


class RequestHead(Wire):
    """What moves a job through queues and to its end, of a request of any kind and any release."""

    kind: str
    model: str
    priority: Lane
    deadline_ms: int | None = None
    webhook_url: str | None = None


class JobHead(Wire):
    """What every transition but the claim needs of a record: releases may differ in all else."""

    id: str
    created_at: datetime
    request: RequestHead
    owner: str = ""
    charged_s: float = 0.0
    request_id: str = ""
    key_digest: str = ""

    @property
    def names(self) -> dict[str, str]:
        """What every log line about the job carries."""
        return {"job_id": self.id, "request_id": self.request_id}


class JobRecord(Recorded):
    """The part of a job that never changes, written once before it is enqueued."""

    id: str
    created_at: datetime
    request: JobRequest
    warnings: tuple[JobWarning, ...] = ()
    body_hash: str = Field(default="", description="Digest of the request as sent, for Idempotency-Key.")
    key_digest: str = Field(default="", description="Digest of the Idempotency-Key and its scope; empty without one.")
    owner: str = Field(default="", description="Id of the API key that made it; empty where keys are off.")
    charged_s: float = Field(default=0.0, description="GPU-seconds taken from the key's budget of that day.")
    request_id: str = Field(default="", description="X-Request-ID of the request that made it, for logs.")

    @property
    def head(self) -> JobHead:
        """What transitions need of it."""
        return JobHead.model_validate(self, from_attributes=True)

    @property
    def names(self) -> dict[str, str]:
        """What every log line about the job carries."""
        return self.head.names


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


class StoredImage(Recorded):
    """An image that is there before its job has ended; `execution` locates the object."""

    execution: str
    info: ImageInfo


class Timings(Wire):
    """Seconds that a job spent in each stage."""

    queue_s: float | None = None
    denoise_s: float | None = None
    decode_s: float | None = None
    store_s: float | None = None


class JobResult(Recorded):
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


def image_id(job_id: str, index: int) -> str:
    return f"{job_id}-{index}"


def parse_image_id(value: str) -> tuple[str, int] | None:
    """Job id and index of an image id, None if it can't be one."""
    found = IMAGE_ID.fullmatch(value)
    return None if found is None else (found[1], int(found[2]))
