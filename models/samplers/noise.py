"""Noise as a function of (seed, purpose, step): resuming needs no generator state, and every device sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

X_T = "x_T"
STEP = "step"


def noise(seed: int, purpose: str, step: int, shape: Sequence[int]) -> Tensor:
    """Draw standard normal float32 numbers of `shape`, on the CPU.

    `purpose` tells streams apart: "x_T" (the start), "step" (a row's noise; `step` is the row's index), and whatever
    else a task draws. Equal arguments give equal numbers whatever was drawn before.
    """
    digest = blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
