"""Chance as a function of (seed, purpose, sample number).

Nothing else decides what a sample is: neither the process that computes it nor what was drawn before. So a resumed run
and a run on more processes see the same samples, and no generator's state is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from models.samplers.noise import noise


def generator(seed: int, purpose: str, number: int) -> np.random.Generator:
    """Return a generator of its own for one sample and purpose."""
    digest = blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def uniform(seed: int, purpose: str, number: int) -> float:
    """Draw one number in [0, 1)."""
    digest = blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def uniforms(seed: int, purpose: str, numbers: Sequence[int]) -> Tensor:
    """Draw one number in [0, 1) for each sample, b, float64."""
    return torch.tensor([uniform(seed, purpose, n) for n in numbers], dtype=torch.float64)


def normals(seed: int, purpose: str, numbers: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw standard normal numbers of `shape` for each sample: b ….

    Samples of one purpose have one shape, so that another process draws the same.
    """
    return torch.stack([noise(seed, purpose, n, shape) for n in numbers])
