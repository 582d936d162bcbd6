"""What every message has in common, the lanes of work, and the version that a worker must share to run a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import NewerRelease

# What a release writes and what it reads. It grows when an older reader would do the wrong thing with what a newer one
# writes: draw another picture, lose a key. A field that such a reader may pass over needs no new version.
CONTRACT_VERSION = 3
CONTRACTS_READ = frozenset({2, CONTRACT_VERSION})  # its own and the one before it
Kind: TypeAlias = Literal[
    "txt2img", "inpaint", "upscale", "img2img", "class2img", "semantic2img", "depth2img", "layout2img"
]
Lane: TypeAlias = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")
BULK_FIRST_EVERY = 5  # claims: bulk isn't starved by interactive jobs that keep coming


class Wire(BaseModel):
    """Base of all that travels: made of known fields alone, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Parse what another process wrote, passing over fields that only a newer release knows.

        Raises:
            ValidationError: a field that this release needs is missing or of another type.
        """
        return cls.model_validate_json(text, extra="ignore")

    def to_json(self) -> str:
        """JSON that validates again: without computed fields."""
        return self.model_dump_json(round_trip=True)


@contextmanager
def newer_told() -> Iterator[None]:
    """Raises NewerRelease for what doesn't validate, as it was valid when it was written."""
    try:
        yield
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
        raise NewerRelease(
            f"a newer release of latentd wrote this job, and this gateway can't read its {field}; one of that "
            "release can: ask again once it has taken over"
        ) from error


class Recorded(Wire):
    """What is kept of a job and read by every gateway of a roll-out."""

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Parse what any release wrote.

        Raises:
            NewerRelease: a kind, a value or a field's type that this release doesn't know.
        """
        with newer_told():
            return super().read(text)


def queue_name(model: str, lane: Lane) -> str:
    """Name the RQ queue of a model's lane."""
    return f"latentd.{model}.{lane}"
