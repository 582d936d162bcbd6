"""ControlNets of the reference cases and their model, for tests of what runs them."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

from contract.add_ons import AppliedControl
from contract.uploads import control_name
from models.add_ons.controls.library import ControlLibrary
from models.add_ons.controls.scan import scan_controls
from models.add_ons.shelf import Kept
from models.checkpoints.load import load
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import NOWHERE, admitted, make_engine, make_request, picture_bytes
from tests.parity.run import CASES
from workers.engine.engine import Engine
from workers.engine.messages import Admission
from workers.library.catalogue import find_controlnets

CASE = CASES / "controlnet"
JOBS: dict[str, dict[str, object]] = {
    "none": {"sampler": "ddim", "guidance_scale": 4.0},
    "lines": {"sampler": "euler", "guidance_scale": 3.0, "controls": ["lines"]},
    "late": {"sampler": "plms", "guidance_scale": 1.0, "controls": ["lines"], "start": 0.5, "end": 1.0},
    "weak": {"sampler": "dpmpp_2m", "guidance_scale": 5.0, "controls": ["any"], "scale": 0.3},
    "both": {"sampler": "unipc", "guidance_scale": 1.0, "controls": ["any", "lines"]},
    "edges": {"sampler": "ddim", "guidance_scale": 2.0, "controls": ["any"], "preprocess": "canny"},
}


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


def engine_of(models_dir: Path, strict_rows: int = 4) -> Engine:
    """An engine with the add-ons of a models directory."""
    return make_engine({"pipeline": controlled_sd()}, controlnets=library_of(models_dir), strict_rows=strict_rows)


def job_named(models_dir: Path, name: str, determinism: str, **more: object) -> Admission:
    """The job of JOBS that is called so, with `more`."""
    fields = {"model": "pipeline", "prompt": f"a {name} cat", "determinism": determinism} | JOBS[name] | more
    names = fields.pop("controls", [])
    assert isinstance(names, list)
    own = {key: fields.pop(key) for key in ("scale", "start", "end", "preprocess") if key in fields}
    controls = [applied(models_dir, control, **own) for control in names]
    files = {control_name(i): picture_bytes(64, 64, seed=i) for i in range(len(names))}
    return admitted(name, make_request(**fields, controls=controls), files)
