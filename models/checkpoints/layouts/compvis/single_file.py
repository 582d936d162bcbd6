"""Single-file checkpoints: a flat state dict from .safetensors or a pickle, and the config that may stand beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.foreign import refuse_foreign, what_it_holds
from models.checkpoints.files.pickles import read_pickle
from models.checkpoints.files.weights import (
    holds_safetensors,
    is_weights,
    read_json,
    read_metadata,
    read_safetensors,
)

INDICES = ("card.json", "model.json", "model_index.json")  # of folders that are checkpoints
# Where shapes of the UNet say what its config does: key and axis.
TELLING: Mapping[str, tuple[str, int]] = {
    "in_channels": ("input_blocks.0.0.weight", 1),
    "model_channels": ("input_blocks.0.0.weight", 0),
    "out_channels": ("out.2.weight", 0),
    "context_dim": ("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
}
NESTED, MAX_NESTED = ("state_dict", "model_state_dict", "model", "module"), 4
SKIPPED = ("first_stage_model.loss.", "loss.", "optimizer_states", "lvlb_weights")


@dataclass(frozen=True, slots=True)
class SingleFile:
    """Tensors by key, what the file says of itself, and the original's `model` config if one was found."""

    path: Path
    state: dict[str, Tensor]
    global_step: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)  # of a safetensors header


def read_single(path: Path, *, data: bool = True) -> SingleFile:
    """Read a single file; without `data` large tensors are shapes alone.

    Raises:
        CheckpointError: naming the file if it is damaged or holds no tensors.
    """
    refuse_foreign(path)
    if holds_safetensors(path):
        state = _unwrapped(read_safetensors(path, data=data))
        return SingleFile(path, state, None, config_beside(path, state), read_metadata(path))
    value = read_pickle(path, lambda key: not key.startswith(SKIPPED), data=data)
    state = _tensors(value)
    if not state:
        raise CheckpointError(f"{path}: holds no tensors{what_it_holds(value)}")
    step = value.get("global_step")
    return SingleFile(path, state, step if isinstance(step, int) else None, config_beside(path, state))


def _tensors(value: Any) -> dict[str, Tensor]:
    """Find the state dict, which trainers put into dicts of several names, under whose root its keys may stand."""
    for _ in range(MAX_NESTED):
        inner = next(
            (value[name] for name in NESTED if isinstance(value, dict) and isinstance(value.get(name), dict)), None
        )
        if inner is None:
            break
        value = inner
    state = {key: item for key, item in value.items() if isinstance(item, Tensor)} if isinstance(value, dict) else {}
    return _unwrapped({str(key): item for key, item in state.items()})


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut off what DataParallel and wrappers put before every key."""
    while state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def config_beside(path: Path, state: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Read the config of the same name, or that of a folder that holds this checkpoint alone, if it has CompVis's form.

    A config whose network isn't the file's is another model's, and left alone.

    Raises:
        CheckpointError: the file's own .yaml doesn't read.
    """
    if (config := _form(read_yaml(path.with_suffix(".yaml")), state)) or (
        config := _form(_json(path.with_suffix(".json")), state)
    ):
        return config
    if not is_alone(path):
        return {}
    return _form(read_yaml(path.parent / "config.yaml"), state) or _form(_json(path.parent / "config.json"), state)


def is_alone(path: Path) -> bool:
    """Tell a checkpoint's own folder from one of many, such as LATENTD_MODELS_DIR."""
    others = [entry for entry in path.parent.iterdir() if entry not in (path, path.with_suffix(""))]
    return not any(is_weights(entry) or any((entry / name).is_file() for name in INDICES) for entry in others)


def _form(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Mapping[str, Any]:
    model = config.get("model")
    params = model.get("params") if isinstance(model, Mapping) else None
    return config if isinstance(params, Mapping) and _fits(params, state) else {}


def _fits(params: Mapping[str, Any], state: Mapping[str, Tensor]) -> bool:
    """Compare what a config says of the UNet with the file's shapes."""
    unet = params.get("unet_config", params.get("network_config"))
    said = unet.get("params") if isinstance(unet, Mapping) else None
    said = said if isinstance(said, Mapping) else {}
    for name, (key, axis) in TELLING.items():
        value = state.get(f"model.diffusion_model.{key}")
        if value is not None and said.get(name, value.shape[axis]) != value.shape[axis]:
            return False
    return True


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; other files of that name are some tool's notes."""
    try:
        return read_json(path) if path.is_file() else {}
    except CheckpointError:
        return {}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping; nothing of a file that isn't there or holds something else.

    Raises:
        CheckpointError: it doesn't read.
    """
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config if isinstance(config, dict) else {}
