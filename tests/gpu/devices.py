"""Where the tests of this folder run: on the first GPU, and as a rehearsal on the CPU with the same tiny models."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from models.pipeline.pipeline import LatentDiffusion
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from workers.engine.engine import Engine
from workers.library.loading import load_ready

GPU = "cuda:0"
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
ON_GPU = pytest.param(GPU, marks=[pytest.mark.gpu, NO_GPU])
DEVICES = [pytest.param("cpu", id="rehearsal"), ON_GPU]
STRICT_ROWS = 4


@lru_cache
def models(device: str, dtype: torch.dtype) -> dict[str, LatentDiffusion]:
    """Load `paint` (text and inpainting) and `up` (×4) as workers do, the same weights on every device."""
    with tempfile.TemporaryDirectory() as name:
        paint, up = Path(name) / "paint", Path(name) / "up"
        written = (write_tiny_inpaint(paint), write_tiny_upscale(up))
        return {folder.name: load_ready(folder, device, dtype) for folder in written}


def engine(device: str, dtype: torch.dtype, max_rows: int = 16) -> Engine:
    return engine_over(models(device, dtype), device, max_rows)


def engine_over(loaded: dict[str, LatentDiffusion], device: str, max_rows: int = 16) -> Engine:
    """As a worker has it: on a GPU calls are padded to few sizes and read late."""
    return Engine(
        loaded,
        device=device,
        threads=1,
        max_rows=max_rows,
        strict_rows=STRICT_ROWS,
        as_gpu=torch.device(device).type == "cuda",
    )
