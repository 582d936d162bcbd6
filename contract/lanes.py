"""Lanes of a model's work, and the RQ queue of each."""

from __future__ import annotations

from typing import Literal, TypeAlias

Lane: TypeAlias = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")


def queue_name(model: str, lane: Lane) -> str:
    return f"latentd.{model}.{lane}"
