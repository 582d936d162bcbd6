"""Running out of memory, as every device says it, and trying again with less."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

CPU_WORDS = ("allocate memory", "could not create a primitive")

T = TypeVar("T")


def or_none(work: Callable[[], T]) -> T | None:
    """The result of `work`, None if it ran out of memory; what it had allocated is free again by then."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
    # Outside the handler, where the traceback no longer holds the tensors of the failed call.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _is_memory(error: Exception) -> bool:
    # The CPU has no class of its own: torch's allocator says "can't allocate memory", oneDNN, which packs weights for a
    # convolution, "could not create a primitive".
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in CPU_WORDS)
