"""LoRAs of the reference cases and their model, for tests of what runs them."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from contract.add_ons import AppliedLora
from models.add_ons.loras.library import LoraLibrary
from models.add_ons.loras.scan import scan_loras
from models.add_ons.shelf import Kept
from models.checkpoints.load import load
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import make_engine, make_request
from tests.parity.run import CASES
from workers.engine.engine import Engine
from workers.engine.messages import Admission
from workers.library.catalogue import find_loras

CASE = CASES / "lora"
# Kohya's with a text encoder, LoCon with convolutions, PEFT's of another alpha: all for tiny SD 1 models of one shape.
FILES = {"style": "sd1_kohya", "conv": "sd1_locon", "peft": "sd1_peft"}
JOBS: dict[str, dict[str, object]] = {
    "none": {"sampler": "ddim", "guidance_scale": 4.0},
    "style": {"sampler": "euler", "guidance_scale": 3.0, "loras": {"style": 1.0}},
    "conv": {"sampler": "plms", "guidance_scale": 1.0, "loras": {"conv": 0.8}},
    "less": {"sampler": "dpmpp_2m", "guidance_scale": 5.0, "loras": {"conv": 0.3}},
    "both": {"sampler": "unipc", "guidance_scale": 1.0, "loras": {"style": -0.5, "peft": 0.7}},
}


@lru_cache
def small_sd() -> LatentDiffusion:
    """A tiny SD 1 with CLIP's text tower; its id is `pipeline`."""
    return load(CASE / "sd1_kohya" / "pipeline")


def write_loras(models_dir: Path) -> Path:
    """Fill the folder Lora of a models directory. Returns it."""
    folder = models_dir / "Lora"
    folder.mkdir(parents=True)
    for name, case in FILES.items():
        shutil.copy(CASE / case / "lora.safetensors", folder / f"{name}.safetensors")
    return folder


def library_of(models_dir: Path, kept: Kept | None = None) -> LoraLibrary:
    """The LoRAs of a models directory, found as a worker finds them."""
    scan_loras(models_dir)
    return LoraLibrary(find_loras(models_dir), kept or Kept(1 << 30))


def applied(models_dir: Path, **scales: float) -> list[AppliedLora]:
    """What requests of these LoRAs at these scales resolve to."""
    cards = {item.card.id: item.card for item in scan_loras(models_dir) if item.card is not None}
    return [AppliedLora(id=name, scale=scale, hash=cards[name].hash) for name, scale in scales.items()]


def write_middle(path: Path, seed: int = 0) -> Path:
    """Write a LoRA of one layer in the middle, 16 channels wide, which `tests.tiny`'s models have. Returns `path`."""
    generator = torch.Generator().manual_seed(seed)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    shapes = {f"{layer}.lora_down.weight": (2, 16), f"{layer}.lora_up.weight": (16, 2)}
    save_file({key: torch.randn(*shape, generator=generator) for key, shape in shapes.items()}, path)
    return path


def engine_of(models_dir: Path, strict_rows: int = 4) -> Engine:
    """An engine with the add-ons of a models directory."""
    return make_engine({"pipeline": small_sd()}, loras=library_of(models_dir), strict_rows=strict_rows)


def job_named(models_dir: Path, name: str, determinism: str, **more: object) -> Admission:
    """The job of JOBS that is called so, with `more`."""
    fields = {"model": "pipeline", "prompt": f"a {name} cat", "determinism": determinism} | JOBS[name] | more
    scales = fields.pop("loras", {})
    assert isinstance(scales, dict)
    return Admission(name, make_request(**fields, loras=applied(models_dir, **scales)))
