"""A first stage by itself: what training stage 1 writes and stage 2 reads, or that of any checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import build
from models.checkpoints.files.weights import read_json, read_safetensors, understood
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.native import FORMAT, made_of
from models.networks.autoencoder import Autoencoder, AutoencoderConfig

INDEX, WEIGHTS = "first_stage.json", "first_stage.safetensors"
VERSION = 1


@dataclass(frozen=True, slots=True)
class FirstStage:
    """Config and weights of an autoencoder, and what its latents are multiplied by to have unit variance."""

    config: AutoencoderConfig
    state: dict[str, Tensor]
    scale_factor: float

    def network(self, device: str) -> Autoencoder:
        """Make the network, float32, frozen."""
        make = lambda: Autoencoder(self.config)  # noqa: E731 (one expression, used once)
        return build(make, self.state, "first stage", device, torch.float32)


def save_first_stage(config: AutoencoderConfig, state: Mapping[str, Tensor], scale_factor: float, folder: Path) -> None:
    """Write first_stage.json and first_stage.safetensors; the folder is made, files in it are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.cpu().contiguous() for key, value in state.items()}, folder / WEIGHTS)
    index = {"format": FORMAT, "version": VERSION, "scale_factor": scale_factor, "first_stage": asdict(config)}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def load_first_stage(path: Path, *, data: bool = True) -> FirstStage:
    """Read the first stage of a folder that `save_first_stage` wrote, or of a checkpoint of any layout.

    Raises:
        CheckpointError: naming the file or key that is wrong.
    """
    if not holds_first_stage(path):
        checkpoint = load_checkpoint(path, data=data)
        config = checkpoint.config
        return FirstStage(config.first_stage, checkpoint.states["first_stage"], config.scale_factor)
    with understood(path):
        index = read_json(path / INDEX)
        if (index.get("format"), index.get("version")) != (FORMAT, VERSION):
            known = f"{index.get('format')!r} {index.get('version')!r}"
            raise CheckpointError(f"{path / INDEX}: format {known} is unknown")
        shape = made_of(AutoencoderConfig, index["first_stage"])
        return FirstStage(shape, read_safetensors(path / WEIGHTS, data=data), float(index["scale_factor"]))


def holds_first_stage(path: Path) -> bool:
    """Tell folders of a first stage alone."""
    return (path / INDEX).is_file()
