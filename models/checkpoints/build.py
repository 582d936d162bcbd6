"""Weights into modules: fused and reshaped as our layers want them, checked key by key, never initialised first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from models.networks.layers import HALF

State = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)
FUSED = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}


def build(
    make: Callable[[], M],
    state: Mapping[str, Tensor],
    what: str,
    device: str,
    dtype: torch.dtype | None,
    origin: Mapping[int, str] | None = None,
) -> M:
    """Make a module with these weights in evaluation mode, in the precision that they have if `dtype` is None.

    It is made on the meta device, so that nothing is allocated or initialised twice. `origin` are the file's own keys
    by the ids of its tensors.

    Raises:
        CheckpointError: naming the first missing, unexpected or misshapen key of `what`.
    """
    with torch.device("meta"):
        module = make()
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    fitted = fit(state, shapes, what, origin)
    del state  # each tensor is freed as its copy is made
    placed = {key: _placed(fitted.pop(key), device, dtype) for key in list(fitted)}
    module.load_state_dict(placed, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _placed(value: Tensor, device: str, dtype: torch.dtype | None) -> Tensor:
    """Place a weight; a view of a larger storage is copied, so as not to keep all of it."""
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    view = value.untyped_storage().nbytes() > value.nbytes
    kind = (dtype or stored_dtype(value)) if value.is_floating_point() else value.dtype
    return value.to(device, kind, copy=view, memory_format=layout)


def stored_dtype(value: Tensor) -> torch.dtype:
    """Return the precision in which a weight is kept as it is: half where its file has half, else float32."""
    return value.dtype if value.dtype in HALF else torch.float32


def fit(
    state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str, origin: Mapping[int, str] | None = None
) -> State:
    """Fuse and squeeze `state` to exactly `shapes`.

    Raises:
        CheckpointError: as `build` does.
    """
    own = {key: (origin or {}).get(id(value), key) for key, value in state.items()}
    fused = _fuse(dict(state), shapes)
    _check_keys(fused, shapes, what, own)
    return {key: _shaped(fused[key], shape, f"{what}: {own.get(key, key)}") for key, shape in shapes.items()}


def _fuse(state: State, keys: Iterable[str]) -> State:
    for key in keys:
        prefix, _, rest = key.rpartition(".")
        parent, _, name = prefix.rpartition(".")
        parts = [f"{parent}.{part}.{rest}" for part in FUSED.get(name, ())]
        if key not in state and parts and all(part in state for part in parts):
            state[key] = torch.cat([_flat(state.pop(part)) for part in parts])
    return state


def _flat(value: Tensor) -> Tensor:
    """Make matrices of 1×1 convolutions."""
    return value.flatten(1) if value.ndim > 2 else value


def _check_keys(
    state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], what: str, own: Mapping[str, str]
) -> None:
    missing = sorted(shapes.keys() - state.keys())
    unexpected = sorted(state.keys() - shapes.keys())
    for problem, keys in (("lacks", missing), ("has no place for", unexpected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            name = _own_name(keys[0], own)
            raise CheckpointError(f"{what}: {problem} {name}{more}", field=name)


def _own_name(key: str, own: Mapping[str, str]) -> str:
    """Return the file's name of a key; of one that it lacks, as its layer's other keys are named."""
    layer = key.rpartition(".")[0]
    like = next((name for ours, name in own.items() if ours.rpartition(".")[0] == layer), None)
    return own.get(key) or (key if like is None else f"{like.rpartition('.')[0]}.{key.rpartition('.')[2]}")


def _shaped(value: Tensor, shape: torch.Size, where: str) -> Tensor:
    if value.ndim > len(shape) and value.shape[: len(shape)] == shape and value.numel() == shape.numel():
        value = value.reshape(shape)
    if value.shape != shape:
        raise CheckpointError(f"{where} has shape {list(value.shape)}, expected {list(shape)}", field=where)
    if not value.is_floating_point():  # all that our networks hold is
        kind = str(value.dtype).removeprefix("torch.")
        raise CheckpointError(f"{where} holds {kind}; weights quantised to integers aren't read", field=where)
    return value


def split(state: Mapping[str, Tensor]) -> State:
    """Undo the fusing: q, k and v become separate matrices."""
    out: State = {}
    for key, value in state.items():
        prefix, _, rest = key.rpartition(".")
        parent, _, name = prefix.rpartition(".")
        parts = FUSED.get(name, ())
        if parts:
            chunks = value.chunk(len(parts))
            out |= {f"{parent}.{part}.{rest}": chunk.clone() for part, chunk in zip(parts, chunks, strict=True)}
        else:
            out[key] = value
    return out
