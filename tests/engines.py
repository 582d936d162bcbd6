"""Engines over tiny models, for tests that drive them without a queue."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contract.request import REQUESTS, JobRequest, parse_request
from contract.uploads import Upload
from core.pictures import lossless
from models.add_ons.controls.library import ControlLibrary
from models.add_ons.embeddings.library import EmbeddingLibrary
from models.add_ons.loras.library import LoraLibrary
from models.checkpoints.load import load
from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from workers.engine.engine import Engine
from workers.engine.kinds import read_files
from workers.engine.messages import Aborted, Admission, Finished, Outcome

EITHER = pytest.mark.parametrize("as_gpu", [False, True])  # outcomes at once, or read with a later turn
NOWHERE = Upload(path="uploads/x/image", sha256="0", bytes=1, width=1, height=1)


@lru_cache
def tiny_models() -> dict[str, LatentDiffusion]:
    """`paint` (text and inpainting, f = 8) and `up` (×4)."""
    with tempfile.TemporaryDirectory() as folder:
        paint = load(write_tiny_inpaint(Path(folder) / "paint"))
        up = load(write_tiny_upscale(Path(folder) / "up"))
    return {"paint": paint, "up": up}


def make_engine(
    models: dict[str, LatentDiffusion] | None = None,
    *,
    max_rows: int = 16,
    strict_rows: int = 4,
    as_gpu: bool = False,
    clock: Callable[[], float] = time.monotonic,
    loras: LoraLibrary | None = None,
    controlnets: ControlLibrary | None = None,
    embeddings: EmbeddingLibrary | None = None,
) -> Engine:
    """An engine on the CPU; `as_gpu`: its calls padded to few sizes and read late, as a GPU's are."""
    models = tiny_models() if models is None else models
    return Engine(
        models,
        device="cpu",
        threads=1,
        max_rows=max_rows,
        strict_rows=strict_rows,
        loras=loras,
        embeddings=embeddings,
        controlnets=controlnets,
        as_gpu=as_gpu,
        clock=clock,
    )


def make_request(**changes: object) -> JobRequest:
    """A small request with what its kind needs of these fields; `changes` add to them."""
    fields: dict[str, object] = {
        "kind": "txt2img",
        "model": "paint",
        "prompt": "red heart",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 4.0,
        "sampler": "ddim",
        "seed": 7,
        "image": NOWHERE,
        "mask": NOWHERE,
        "depth": NOWHERE,
        "mask_mode": "auto",
        "class_id": 0,
    }
    known = REQUESTS[str(changes.get("kind", "txt2img"))].model_fields
    return parse_request({name: value for name, value in fields.items() if name in known} | changes)


def picture_bytes(width: int = 70, height: int = 50, mode: str = "RGB", seed: int = 0) -> bytes:
    """A PNG of noise."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return lossless(Image.fromarray(values, mode))


def mask_bytes(width: int = 70, height: int = 50, box: tuple[int, int, int, int] = (10, 10, 40, 30)) -> bytes:
    """A PNG whose white box (left, top, right, bottom) is repainted."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, box)
    return lossless(mask)


def admitted(job_id: str, request: JobRequest, files: Mapping[str, bytes], snapshot: bytes | None = None) -> Admission:
    """The admission of a job with files."""
    return Admission(job_id, request, read_files(request, files), snapshot=snapshot)


def inpaint(job_id: str, image: bytes, mask: bytes, **changes: object) -> Admission:
    """The admission of a job that repaints `image` inside `mask`."""
    return admitted(job_id, make_request(kind="inpaint", **changes), {"image": image, "mask": mask})


def upscale(job_id: str, image: bytes, **changes: object) -> Admission:
    """The admission of a job that enlarges `image`."""
    fields: dict[str, object] = {"kind": "upscale", "model": "up", "guidance_scale": 1.0}
    return admitted(job_id, make_request(**fields | changes), {"image": image})


def job_of(job_id: str, **changes: object) -> Admission:
    """A job without pictures."""
    return Admission(job_id, make_request(**changes))


def play(engine: Engine, admissions: Iterable[Admission] = ()) -> list[Outcome]:
    """Admit everything and turn until the engine is idle."""
    for admission in admissions:
        engine.admit(admission)
    outcomes: list[Outcome] = []
    while engine.busy:
        outcomes += engine.turn()
    return outcomes


def finished(outcomes: Iterable[Outcome]) -> dict[tuple[str, int], Image.Image]:
    """Pictures by (job id, index)."""
    return {(o.job_id, o.index): o.picture for o in outcomes if isinstance(o, Finished)}


def failures(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """What each failed job failed of."""
    return {o.job_id: o.error.detail for o in outcomes if isinstance(o, Aborted)}


class Faulty:
    """A model whose chosen parts fail, to see who notices."""

    def __init__(self, model: LatentDiffusion) -> None:
        self._model = model
        self.most_rows = self.most_pictures = self.most_cells = 10**9  # cells: rows times height times width
        self.most_prompts = 10**9
        self.encodes: Callable[[], bool] = lambda: True
        self.nan_at = -1.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def predict(
        self, z_t: torch.Tensor, timesteps: torch.Tensor, inputs: Inputs, *none: None, exact: bool
    ) -> torch.Tensor:
        prompts = 0 if inputs.context is None else len({tuple(row.flatten().tolist()) for row in inputs.context})
        cells = len(z_t) * z_t[0, 0].numel()
        if len(z_t) > self.most_rows or cells > self.most_cells or prompts > self.most_prompts:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        out = self._model.predict(z_t, timesteps, inputs, *none, exact=exact)
        return torch.where((timesteps == self.nan_at)[:, None, None, None], torch.nan, out)

    def encode_images(self, x: torch.Tensor) -> torch.Tensor:
        if not self.encodes():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._model.encode_images(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        if len(z) > self.most_pictures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._model.decode(z)


def faulty_models() -> tuple[Faulty, dict[str, LatentDiffusion]]:
    faulty = Faulty(tiny_models()["paint"])
    return faulty, {"paint": faulty}  # type: ignore[dict-item]
