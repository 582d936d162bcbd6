"""Weight files of a component folder: safetensors or pickles, whole or sharded, full or half precision."""

from __future__ import annotations

import glob
import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.foreign import refuse_foreign
from models.checkpoints.files.pickles import read_pickle, read_tensor, without_data

# What interpreting a file of another form ends in, wherever a config lacks a key or holds another type than usual.
_FOREIGN = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
COMPANION_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")  # the first that is there is taken
METADATA = "__metadata__"  # what a safetensors header says beside its tensors
SAFE_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Turn any fault of interpreting a checkpoint into a CheckpointError of one line naming `path`.

    What a device lacks or suffers as weights are placed on it is none of the file's: it is raised as it is.
    """
    try:
        yield
    except (CheckpointError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error}", value=str(path)) from error
    except _FOREIGN as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: its config or weights have no known form ({what})", value=str(path)) from error


def is_weights(path: Path) -> bool:
    """Tell weight files by their suffix, in any case; what begins with a dot is the system's (macOS writes ._NAME)."""
    if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
        return False
    try:
        return path.is_file()
    except PermissionError:  # a link into a closed folder; it is told with those (`contract.card.closed_folders`)
        return False


def companion(model: Path, mark: str) -> Path | None:
    """Find the weight file NAME`mark`.* beside the model NAME, its mark and ending written in any case."""
    name = f"{model.name}{mark}"

    def rank(file: Path) -> tuple[bool, int, str]:
        suffix = file.suffix.lower()
        return file.name != f"{name}{suffix}", COMPANION_SUFFIXES.index(suffix), file.name

    beside = model.parent.glob(f"{glob.escape(model.name)}.*")
    return min((f for f in beside if f.stem.lower() == name.lower() and is_weights(f)), key=rank, default=None)


def holds_safetensors(path: Path) -> bool:
    """Tell by the first bytes, since files are renamed: the length of a JSON header, then the header."""
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return start[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and start[:4] != b"PK\x03\x04")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: naming the file.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise CheckpointError(f"{path}: not a file")
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def read_safetensors(path: Path, *, data: bool = True) -> dict[str, Tensor]:
    """Read a file of tensors into memory of their own; without `data` large ones are shapes alone.

    Raises:
        CheckpointError: naming the file if it is truncated or no safetensors file.
    """
    try:
        with safe_open(path, "pt"):
            pass  # checks the header and that the data is all there
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
            return {key: _stored(stream, entry, 8 + size, data) for key, entry in header.items() if key != METADATA}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.detail}") from error


def _stored(stream: IO[bytes], entry: dict[str, Any], begin: int, data: bool) -> Tensor:
    if (dtype := SAFE_DTYPES.get(entry["dtype"])) is None:
        raise CheckpointError(f"element type {entry['dtype']} is not one of {', '.join(SAFE_DTYPES)}")
    shape = entry["shape"]
    if not data and without_data(dtype, math.prod(shape)):
        return torch.empty(shape, dtype=dtype, device="meta")
    stream.seek(begin + entry["data_offsets"][0])
    return read_tensor(stream, dtype, math.prod(shape)).reshape(shape)


def read_tensors(path: Path, *, data: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a file of either form by its own keys, those below a lone `state_dict` as their own.

    Raises:
        CheckpointError: it is damaged or no file of tensors.
    """
    with understood(path):
        refuse_foreign(path)
        state = read_safetensors(path, data=data) if holds_safetensors(path) else read_pickle(path, data=data)
        state = state.get("state_dict", state) if isinstance(state, dict) else state
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: not a state dict of tensors")
        return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


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


def read_weights(folder: Path, *, data: bool = True) -> dict[str, Tensor]:
    """Read the weights of a component in the diffusers or transformers layout, full precision before its variants.

    Raises:
        CheckpointError: the folder holds none, or a file is damaged.
    """
    state: dict[str, Tensor] = {}
    for file in component_files(folder):
        state |= _read(file, data)
    return state


def component_files(folder: Path) -> list[Path]:
    """List the files that a component's weights are read from: one, or the shards of an index.

    Raises:
        CheckpointError: the folder holds none.
    """
    for variant in ("", ".fp32", ".fp16", ".bf16", ".non_ema"):
        for stem in STEMS:
            for suffix in (".safetensors", ".bin"):
                if (path := folder / f"{stem}{variant}{suffix}").is_file():
                    return [path]
                for index in (f"{stem}{suffix}.index{variant}.json", f"{stem}{variant}{suffix}.index.json"):
                    if (path := folder / index).is_file():
                        return _shards(path)
    raise CheckpointError(f"{folder}: holds no weights ({', '.join(f'{s}.safetensors or .bin' for s in STEMS)})")


def _read(path: Path, data: bool) -> dict[str, Tensor]:
    if holds_safetensors(path):
        return read_safetensors(path, data=data)
    state = read_pickle(path, data=data)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict of tensors")
    return state


def _shards(index: Path) -> list[Path]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} is not beside the index")
    return [index.parent / name for name in names]
