"""Uploaded pictures of a request, and what the files of some are called."""

from __future__ import annotations

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from contract.base import Wire

CONTROL = "control_"  # begins the names of controls' pictures among a request's files


class Upload(Wire):
    """An uploaded picture: digest and length of the file as it came, size after EXIF rotation.

    At `path` is what it was decoded to, as PNG; the file itself where a gateway of the release before stored it.
    """

    # Where the storage has it: in records alone, since it is nothing that a client could ask for.
    path: SkipJsonSchema[str] = Field(default="", exclude_if=lambda path: not path)
    sha256: str
    bytes: int
    width: int
    height: int


def control_name(number: int) -> str:
    """Name the picture of control `number`, from 0, among a request's files."""
    return f"{CONTROL}{number}"
