"""What the gateway must know of samplers without torch: how often they ask the network, their eta, their steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

# Sets of noise levels that a request may choose instead of the checkpoint's own spacing: docs/samplers.md.
Schedule: TypeAlias = Literal[
    "leading",
    "trailing",
    "linspace",
    "normal",
    "karras",
    "exponential",
    "sgm_uniform",
    "diffusers_karras",
    "diffusers_exponential",
]
ASKING_TWICE = frozenset(("heun", "dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde"))
ETA: Mapping[str, float] = {"ddim": 0.0, "tcd": 0.3}  # samplers that have one, and what it is where nothing says
ORIGINAL_STEPS: Mapping[str, int] = {"lcm": 50, "tcd": 50}  # from which alone these take theirs
MOST_TIMESTEPS = 1000


def evaluations(sampler: str, steps: int) -> int:
    """Count the network evaluations of `steps` steps of one image; the last step, to no noise, always needs one."""
    return 2 * steps - 1 if sampler in ASKING_TWICE else steps
