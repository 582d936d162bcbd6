"""Text of what a Redis client answers."""

from __future__ import annotations


def as_text(value: bytes | str) -> str:
    """A client made without `decode_responses` answers bytes."""
    return value.decode() if isinstance(value, bytes) else value
