"""Weight files of a component folder: safetensors or pickles, whole or sharded, full or half precision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.pickles import read_pickle

# What interpreting a file of another form ends in, wherever a config lacks a key or holds another type than usual.
_FOREIGN = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turn any fault of interpreting a checkpoint into a CheckpointError of one line naming `path`."""
    try:
        yield
    except CheckpointError:
        raise
    except _FOREIGN as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: its config or weights have no known form ({what})", value=str(path)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors.

    Raises:
        CheckpointError: naming the file if it is truncated or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read what the header of a safetensors file says beside its tensors.

    Raises:
        CheckpointError: as `read_safetensors` does.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a component in the diffusers or transformers layout, full precision before fp16.

    Raises:
        CheckpointError: the folder holds none, or a file is damaged.
    """
    for variant in ("", ".fp16"):
        for stem in STEMS:
            for suffix in (".safetensors", ".bin"):
                if (path := folder / f"{stem}{variant}{suffix}").is_file():
                    return _read(path)
                for index in (f"{stem}{suffix}.index{variant}.json", f"{stem}{variant}{suffix}.index.json"):
                    if (path := folder / index).is_file():
                        return _read_shards(path)
    raise CheckpointError(f"{folder}: holds no weights ({', '.join(f'{s}.safetensors or .bin' for s in STEMS)})")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    state = read_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict of tensors")
    return state


def _read_shards(index: Path) -> dict[str, Tensor]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    state: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} is not beside the index")
        state |= _read(index.parent / name)
    return state
