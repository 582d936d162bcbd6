"""What a job's events carry, as the OpenAPI document describes it; one model an event."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from contract.job import ImageInfo, Timings
from core.errors import Problem


class EventData(BaseModel):
    """Base of all: what a newer worker adds is passed over."""

    model_config = ConfigDict(extra="ignore")


class QueuedEvent(EventData):
    """The job was accepted."""


class StartedEvent(EventData):
    """A worker began with it."""

    started_at: datetime


class PicturePreview(EventData):
    """What a picture of the job looked like at a step."""

    index: int
    step: int
    image: str = Field(description="A small WebP as base64.")


class StepEvent(EventData):
    """A step was taken; totals over all images of the job."""

    step: int
    steps: int
    preview: str | None = Field(
        default=None, description="The first picture: a small WebP as base64, in live events of some steps."
    )
    preview_step: int | None = Field(default=None, description="The step that the preview shows.")
    previews: tuple[PicturePreview, ...] | None = Field(
        default=None, description="Of a job of several pictures: all that are new, the first one's among them."
    )


class SucceededEvent(EventData):
    """The job ended, and its images are stored."""

    images: tuple[ImageInfo, ...]
    timings: Timings


class FailedEvent(EventData):
    """The job ended without images."""

    error: Problem


class CanceledEvent(EventData):
    """The job ended because a client wanted it to."""


EVENTS: dict[str, type[BaseModel]] = {
    "queued": QueuedEvent,
    "started": StartedEvent,
    "step": StepEvent,
    "image": ImageInfo,
    "succeeded": SucceededEvent,
    "failed": FailedEvent,
    "canceled": CanceledEvent,
}


def event_schema() -> dict[str, Any]:
    """Describe one event of the stream, as OpenAPI 3.1 does: its data is JSON in a text."""
    whole = {"type": "string", "title": "text", "description": "The stream, to whom it is one text."}
    return {"oneOf": [*(_one(kind, model.__name__) for kind, model in EVENTS.items()), whole]}


def _one(kind: str, model: str) -> dict[str, Any]:
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": f"#/components/schemas/{model}"},
    }
    event = {"type": "string", "const": kind}
    properties = {"id": {"type": "string"}, "event": event, "data": data}
    return {"type": "object", "title": kind, "required": ["id", "event", "data"], "properties": properties}
