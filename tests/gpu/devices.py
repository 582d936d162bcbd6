"""Where the tests of this folder run: on the first GPU, and as a rehearsal on the CPU with the same tiny models."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from models.checkpoints.load import load
from models.pipeline import LatentDiffusion
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from workers.engine.engine import Engine

GPU = "cuda:0"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
ON_GPU = pytest.param(GPU, marks=[pytest.mark.gpu, NO_GPU])
DEVICES = [pytest.param("cpu", id="rehearsal"), ON_GPU]
STRICT_ROWS = 4


@lru_cache
def models(device: str, dtype: torch.dtype) -> dict[str, LatentDiffusion]:
    """Load `paint` (text and inpainting) and `up` (×4), the same weights on every device."""
    with tempfile.TemporaryDirectory() as name:
        paint, up = Path(name) / "paint", Path(name) / "up"
        written = (write_tiny_inpaint(paint), write_tiny_upscale(up))
        return {folder.name: load(folder, device, dtype) for folder in written}


def engine(device: str, dtype: torch.dtype, max_rows: int = 16) -> Engine:
    return Engine(models(device, dtype), device=device, threads=1, max_rows=max_rows, strict_rows=STRICT_ROWS)
