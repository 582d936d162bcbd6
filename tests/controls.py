"""ControlNets of the reference cases and their model, for tests of what runs them."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

from contract.add_ons import AppliedControl
from models.add_ons.controls.library import ControlLibrary
from models.add_ons.controls.scan import scan_controls
from models.add_ons.shelf import Kept
from models.checkpoints.load import load
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import NOWHERE
from tests.parity.run import CASES
from workers.library.catalogue import find_controlnets

CASE = CASES / "controlnet"


@lru_cache
def controlled_sd() -> LatentDiffusion:
    """A tiny SD 1 that both ControlNets of `write_controls` fit; its id is `pipeline`."""
    return load(CASE / "two_controlnets" / "pipeline")


def write_controls(models_dir: Path) -> Path:
    """Fill the folder ControlNet of a models directory with `lines`, a folder, and `any`, a file. Returns it."""
    folder = models_dir / "ControlNet"
    folder.mkdir(parents=True)
    shutil.copytree(CASE / "two_controlnets" / "controlnet_1", folder / "lines")
    weights = CASE / "two_controlnets" / "controlnet_2" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, folder / "any.safetensors")
    return folder


def library_of(models_dir: Path) -> ControlLibrary:
    """The ControlNets of a models directory, found as a worker finds them."""
    scan_controls(models_dir)
    return ControlLibrary(find_controlnets(models_dir), Kept(1 << 30))


def applied(models_dir: Path, name: str, **fields: object) -> AppliedControl:
    """What a request of this ControlNet resolves to; its picture is as large as `tests.engines`' requests."""
    [card] = [item.card for item in scan_controls(models_dir) if item.card is not None and item.card.id == name]
    image = NOWHERE.model_copy(update={"width": 64, "height": 64})
    return AppliedControl.model_validate({"id": name, "hash": card.hash, "image": image, **fields})
