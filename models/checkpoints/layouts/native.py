"""The internal form on disk: model.json and one safetensors file a part, under the names that our modules use."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.checkpoint import Checkpoint, fitted
from models.checkpoints.files.weights import read_json, read_safetensors
from models.networks.autoencoder import AutoencoderConfig
from models.networks.conditioning import ClassConfig, Conditioner, RescalerConfig, TextConfig, TowerConfig
from models.networks.unet import UNetConfig
from models.pipeline.config import ModelConfig
from models.schedule import ScheduleConfig
from models.tokenizers.prompts import TOKENIZERS, PromptTokenizer, load_tokenizer, save_tokenizer

FORMAT = "latentd"
VERSION = 3  # the first that a release has
INDEX = "model.json"
PARTS = ("unet", "first_stage", "conditioner")
CONDITIONERS: dict[str, type[ClassConfig] | type[RescalerConfig]] = {"class": ClassConfig, "map": RescalerConfig}
T = TypeVar("T")


def save_native(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint, weights in the precision they have. The folder is made; files in it are replaced.

    Raises:
        CheckpointError: naming a key that doesn't fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, state in fitted(checkpoint).items():
        save_file({key: value.contiguous() for key, value in state.items()}, folder / f"{part}.safetensors")
    for name, tokenizer in zip(TOKENIZERS, checkpoint.tokenizers, strict=False):
        save_tokenizer(tokenizer, folder / name)
    text = json.dumps(_to_json(checkpoint.config), indent=2)
    (folder / INDEX).write_text(text + "\n", "utf-8")


def is_native(folder: Path) -> bool:
    """Tell folders of this form; a `model.json` without `format` is notes on a file `model.safetensors` beside it."""
    try:
        return (folder / INDEX).is_file() and "format" in read_json(folder / INDEX)
    except CheckpointError:
        return True  # which reading it will tell


def load_native(folder: Path, *, data: bool = True) -> Checkpoint:
    """Read what `save_native` wrote.

    Raises:
        CheckpointError: naming the file or key that is wrong.
    """
    index = read_json(folder / INDEX)
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        raise CheckpointError(f"{folder / INDEX}: format {index.get('format')!r} {index.get('version')!r} is unknown")
    config = _from_json(index)
    parts = ["unet", "first_stage"] + (["conditioner"] if config.conditioner is not None else [])
    states: dict[str, dict[str, Tensor]] = {
        part: read_safetensors(folder / f"{part}.safetensors", data=data) for part in parts
    }
    text = config.conditioner if isinstance(config.conditioner, TextConfig) else None
    return Checkpoint(config, states, _tokenizers(folder, text))


def _tokenizers(folder: Path, text: TextConfig | None) -> tuple[PromptTokenizer, ...]:
    towers = zip(TOKENIZERS, text.towers if text else (), strict=False)
    return tuple(load_tokenizer(folder / name, t.positions) for name, t in towers if (folder / name).is_dir())


def _to_json(config: ModelConfig) -> dict[str, Any]:
    data = {"format": FORMAT, "version": VERSION, **asdict(config)}
    for name, kind in (*CONDITIONERS.items(), ("text", TextConfig)):
        if isinstance(config.conditioner, kind):
            data["conditioner"]["type"] = name
    return data


def _from_json(index: dict[str, Any]) -> ModelConfig:
    low_res = index.get("low_res_schedule")
    return ModelConfig(
        unet=made_of(UNetConfig, index["unet"]),
        first_stage=made_of(AutoencoderConfig, index["first_stage"]),
        schedule=made_of(ScheduleConfig, index["schedule"]),
        scale_factor=float(index["scale_factor"]),
        conditioner=_conditioner(index.get("conditioner")),
        concat=index.get("concat"),
        low_res_schedule=None if low_res is None else made_of(ScheduleConfig, low_res),
        latent_size=index.get("latent_size"),
        zeros_for_no_prompt=bool(index.get("zeros_for_no_prompt", False)),
    )


def _conditioner(data: dict[str, Any] | None) -> Conditioner | None:
    if data is None:
        return None
    kind, fields_ = data.get("type", ""), {key: value for key, value in data.items() if key != "type"}
    if kind == "text":
        return TextConfig(tuple(made_of(TowerConfig, tower) for tower in fields_["towers"]))
    if kind not in CONDITIONERS:
        raise CheckpointError(f"{INDEX}: conditioner type {kind!r} is unknown", field="conditioner")
    return made_of(CONDITIONERS[kind], fields_)


def made_of(cls: type[T], data: dict[str, Any]) -> T:
    """Make a config of what `asdict` gave.

    Raises:
        CheckpointError: naming a field that it does not have.
    """
    assert is_dataclass(cls)
    unknown = data.keys() - {f.name for f in fields(cls)}
    if unknown:
        raise CheckpointError(f"{INDEX}: {cls.__name__} has no field {min(unknown)!r}", field=min(unknown))
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
