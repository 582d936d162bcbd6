"""Folders with LoRAs beside them: the outputs of a pipeline whose networks have low-rank products added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from contract.card import InstalledLora
from models.add_ons.loras.library import Adapters, LoraLibrary
from models.add_ons.shelf import Found, Kept
from models.networks.adapters import RowAdapters, adapted
from tests.parity.case import Case
from tests.parity.pipelines import Pipeline
from tests.parity.xl import XL


@dataclass(frozen=True)
class Applied:
    """One LoRA of a run."""

    id: str
    scale: float
    hash: str


class Adapted:
    """Outputs of a pipeline with LoRAs; those of no run are the first one's, or of no LoRA."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.runs = {name: (scales, files) for name, scales, files in case.spec["lora_runs"]}
        self.library = library(case)

    def __call__(self, output: str) -> Tensor:
        pipeline = XL(self.case) if self.case.folder.name.startswith("sdxl") else Pipeline(self.case)
        if output == "latent_base":
            return pipeline("latent")
        scales, files = self.runs.get(output) or next(iter(self.runs.values()))
        names = [self.case.spec["files"]["lora"][i] for i in files or range(len(scales))]
        applied = [Applied(name, scale, name) for name, scale in zip(names, scales, strict=True)]
        adapters = self.library.adapters(pipeline.model, applied)
        assert adapters is not None
        with everywhere(pipeline, adapters):
            return pipeline("latent" if output in self.runs else output)


def library(case: Case) -> LoraLibrary:
    """Find the files of a case."""
    found = {}
    for name in case.spec["files"]["lora"]:
        stat = (case.folder / name).stat()
        stamp = {"file": name, "size": stat.st_size, "changed_ns": stat.st_mtime_ns}
        card = InstalledLora.model_construct(id=name, hash=name, **stamp)
        found[name] = Found(card, case.folder / name)
    return LoraLibrary(found, Kept(1 << 30))


@contextmanager
def everywhere(pipeline: Pipeline | XL, adapters: Adapters) -> Iterator[None]:
    """Let every row of every call have these adapters."""
    model, rows = pipeline.model, len(pipeline.case.inputs["latents"])
    assert isinstance(model.conditioner, torch.nn.Module)
    guidance_scale = float(pipeline.sampling["guidance_scale"])
    both = rows if guidance_scale in (0.0, 1.0) else 2 * rows
    with (
        adapted(model.conditioner, RowAdapters([adapters.text] * rows, apart=False)),
        adapted(model.unet, RowAdapters([adapters.unet] * both, apart=False)),
    ):
        yield
