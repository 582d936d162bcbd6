"""The noise schedule that a checkpoint's own buffers tell, for files without a config."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from core.errors import CheckpointError
from models.schedule import ScheduleConfig

TOLERANCE = 1e-5  # relative; buffers are float32, in pruned files float16 rounded back is refused


def read_schedule(state: Mapping[str, Tensor]) -> ScheduleConfig | None:
    """Read β, linear in its root between the first and last of `betas`; None if the file has no such buffer of use.

    Raises:
        CheckpointError: the buffer is not of that form.
    """
    if "betas" not in state or state["betas"].element_size() == 1:  # 8 bits hold no schedule
        return None
    betas = state["betas"].double().numpy()
    start, end = float(betas[0]), float(betas[-1])
    expected = np.linspace(start**0.5, end**0.5, len(betas)) ** 2
    tolerance = TOLERANCE if state["betas"].element_size() > 2 else 1e-2
    if not np.allclose(betas, expected, rtol=tolerance, atol=0):
        raise CheckpointError("betas: not linear in their square root; put the model's config.yaml beside the file")
    return ScheduleConfig(timesteps=len(betas), beta_start=_rounded(start), beta_end=_rounded(end))


def _rounded(beta: float) -> float:
    """Round to a config's few digits, which float32 buffers don't keep exactly."""
    return float(f"{beta:.5g}")
