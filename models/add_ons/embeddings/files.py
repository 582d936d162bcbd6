"""Textual inversion files: diffusers', AUTOMATIC1111's and SDXL's layouts, read into the vectors of each tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.foreign import refuse_foreign
from models.checkpoints.files.pickles import read_pickle
from models.checkpoints.files.weights import holds_safetensors, read_metadata, read_safetensors, understood

XL = ("clip_l", "clip_g")  # SDXL's towers, in their order
MOST_VECTORS = 75  # places of a chunk: an embedding is never cut in two


@dataclass(frozen=True, slots=True, weakref_slot=True)
class EmbeddingFile:
    """The vectors, k d each, of the towers that read them, and what the header says beside."""

    path: Path
    towers: tuple[Tensor, ...]
    metadata: Mapping[str, str]

    @property
    def vectors(self) -> int:
        return len(self.towers[0])

    @property
    def bytes(self) -> int:
        return sum(vectors.nbytes for vectors in self.towers)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(vectors.shape[1] for vectors in self.towers)


def read_embedding(path: Path, *, data: bool = True) -> EmbeddingFile:
    """Read a file of any layout; without `data` large tensors are shapes alone.

    Raises:
        CheckpointError: it is damaged or no embedding.
    """
    with understood(path):
        refuse_foreign(path)
        safe = holds_safetensors(path)
        state: Any = read_safetensors(path, data=data) if safe else read_pickle(path, data=data)
        found = _towers(path, state)
        towers = tuple(vectors[None] if vectors.ndim == 1 else vectors for vectors in found)
        _check(path, towers)
        return EmbeddingFile(path, towers, read_metadata(path) if safe else {})


def _towers(path: Path, state: Any) -> list[Tensor]:
    """Find SDXL's two, A1111's in `string_to_param` or `emb_params`, or diffusers', the only tensor by any name."""
    inner = state.get("string_to_param", state) if isinstance(state, dict) else {}
    tensors = {str(k): v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, dict) else {}
    if tensors.keys() >= set(XL):
        return [tensors[name] for name in XL]
    if len(tensors) == 1:
        return list(tensors.values())
    shown = ", ".join(sorted(tensors)[:5]) or "no tensors"
    raise CheckpointError(f"{path}: not an embedding, which is one tensor or clip_l and clip_g; this has {shown}")


def _check(path: Path, towers: tuple[Tensor, ...]) -> None:
    shapes = [list(vectors.shape) for vectors in towers]
    if any(vectors.ndim != 2 or not vectors.is_floating_point() for vectors in towers):
        raise CheckpointError(f"{path}: not an embedding: its tensors are {shapes}, not vectors of floating point")
    counts = {len(vectors) for vectors in towers}
    if len(counts) != 1:
        raise CheckpointError(f"{path}: its towers have different numbers of vectors: {shapes}")
    if not 1 <= counts.pop() <= MOST_VECTORS:
        raise CheckpointError(f"{path}: {len(towers[0])} vectors; 1 to {MOST_VECTORS} fit in a chunk")
