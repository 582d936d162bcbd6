"""Single-file checkpoints: a flat state dict from .safetensors or a pickle, and the config that may stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.pickles import read_pickle
from models.checkpoints.files.weights import read_json, read_safetensors

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
SKIPPED = ("first_stage_model.loss.", "loss.", "optimizer_states", "lvlb_weights")


@dataclass(frozen=True, slots=True)
class SingleFile:
    """Tensors by key, the training step if the file says it, and the original's `model` config if one was found."""

    path: Path
    state: dict[str, Tensor]
    global_step: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


def read_single(path: Path) -> SingleFile:
    """Read a single file.

    Raises:
        CheckpointError: naming the file if it is damaged or holds no tensors.
    """
    config = config_beside(path)
    if path.suffix == ".safetensors":
        return SingleFile(path, read_safetensors(path), None, config)
    value = read_pickle(path, lambda key: not key.startswith(SKIPPED))
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no state dict")
    inner = value.get("state_dict", value)
    state = {key: item for key, item in inner.items() if isinstance(item, Tensor)} if isinstance(inner, dict) else {}
    if not state:
        raise CheckpointError(f"{path}: holds no tensors")
    step = value.get("global_step")
    return SingleFile(path, state, step if isinstance(step, int) else None, config)


def config_beside(path: Path) -> Mapping[str, Any]:
    """Read the config of the same name, or the folder's config.yaml or config.json, if one has CompVis's form."""
    names = [path.with_suffix(suffix) for suffix in (".yaml", ".json")]
    for candidate in (*names, path.parent / "config.yaml", path.parent / "config.json"):
        if candidate.is_file() and "model" in (config := _read_config(candidate)):
            return config
    return {}


def _read_config(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_json(path)
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config if isinstance(config, dict) else {}
