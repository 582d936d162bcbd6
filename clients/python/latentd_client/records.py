"""What the service answers, as frozen records; fields that a newer service adds are in `raw` alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from PIL import Image as Pillow

ENDED = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True)
class Problem:
    """A problem document (RFC 9457)."""

    type: str
    status: int
    detail: str
    field: str | None = None
    value: Any = None
    bound: Any = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Problem:
        """Read the service's document."""
        status, detail = int(raw.get("status", 0)), str(raw.get("detail") or raw.get("title") or "")
        return cls(str(raw.get("type", "")), status, detail, raw.get("field"), raw.get("value"), raw.get("bound"))


@dataclass(frozen=True)
class Image:
    """A stored picture of a job; `Client.images` fetches the pixels."""

    id: str
    url: str
    seed: int
    width: int
    height: int
    format: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Image:
        """Read one of a job's `images`."""
        return cls(**{name: raw[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Job:
    """A job as it was when it was read; `raw` is the whole answer."""

    id: str
    kind: str
    status: str
    created_at: datetime
    step: int
    steps: int
    request: Mapping[str, Any]
    images: tuple[Image, ...] = ()
    warnings: tuple[str, ...] = ()
    position: int | None = None
    eta_s: float | None = None
    error: Problem | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Job:
        """Read the service's job."""
        return cls(
            id=raw["id"],
            kind=raw["kind"],
            status=raw["status"],
            created_at=datetime.fromisoformat(raw["created_at"].replace("Z", "+00:00")),
            step=raw["progress"]["step"],
            steps=raw["progress"]["steps"],
            request=raw["request"],
            images=tuple(map(Image.of, raw["images"])),
            warnings=tuple(warning["message"] for warning in raw["warnings"]),
            position=raw.get("position"),
            eta_s=raw.get("eta_s"),
            error=Problem.of(raw["error"]) if raw.get("error") else None,
            raw=raw,
        )


@dataclass(frozen=True)
class Page:
    """Some of the key's jobs; `next_cursor` asks for those after them."""

    items: tuple[Job, ...]
    next_cursor: str | None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Page:
        """Read the service's list of jobs."""
        return cls(tuple(map(Job.of, raw["items"])), raw["next_cursor"])


@dataclass(frozen=True)
class Event:
    """One event of a job: queued, started, step, image, and exactly one of succeeded, failed, canceled."""

    id: str
    type: str
    data: Mapping[str, Any]

    @property
    def last(self) -> bool:
        """Whether the job has ended with it."""
        return self.type in ENDED

    @property
    def preview(self) -> Pillow.Image | None:
        """The small picture that a `step` may carry, where the job was asked for previews: the first one's."""
        return self.previews.get(0)

    @property
    def previews(self) -> dict[int, Pillow.Image]:
        """The small pictures that a `step` may carry, by the numbers of the job's pictures: those that are new."""
        encoded = {each["index"]: each["image"] for each in self.data.get("previews", ())}
        if "preview" in self.data:
            encoded[0] = self.data["preview"]
        return {index: _opened(encoded[index]) for index in sorted(encoded)}


def _opened(encoded: str) -> Pillow.Image:
    return Pillow.open(io.BytesIO(base64.b64decode(encoded)))
