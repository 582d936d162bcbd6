"""The embeddings of a worker: read when a job names them, and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from contract.card import InstalledEmbedding
from core.errors import CheckpointError
from models.add_ons.embeddings.files import EmbeddingFile, read_embedding
from models.add_ons.shelf import Found, Kept, path_of
from models.pipeline.chunks import clip_of
from models.pipeline.pipeline import LatentDiffusion

KEPT_BYTES = 64 << 20  # of some kilobytes each


class Applied(Protocol):
    """An embedding as a request names it."""

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """A job's embeddings: for each tower the numbers of their vectors by lower-case name, and the vectors k d."""

    key: str
    numbers: tuple[Mapping[str, range], ...]
    vectors: tuple[Tensor, ...]


class EmbeddingLibrary:
    """Makes the embeddings of jobs. Not for threads."""

    def __init__(self, found: Mapping[str, Found[InstalledEmbedding]]) -> None:
        self._found = dict(found)
        self._kept = Kept(KEPT_BYTES)

    @property
    def names(self) -> frozenset[str]:
        """The embeddings that it can load."""
        return frozenset(self._found)

    def embeddings(self, model: LatentDiffusion, applied: Sequence[Applied]) -> Embeddings | None:
        """Make what `applied` are to a model; None of none.

        Raises:
            CheckpointError: one isn't there, was replaced since the request was accepted, or doesn't fit the model,
                by its name.
        """
        if not applied:
            return None
        files = {embedding.name: self._file(embedding) for embedding in applied}
        return combined(model, files, " ".join(f"{each.name.lower()}:{each.hash}" for each in applied))

    def _file(self, embedding: Applied) -> EmbeddingFile:
        return self._kept.get(embedding.hash, lambda: self._load(embedding), lambda file: file.bytes)

    def _load(self, embedding: Applied) -> EmbeddingFile:
        return read_embedding(path_of(self._found, "embedding", "embeddings", embedding.name, embedding.hash))


def combined(model: LatentDiffusion, files: Mapping[str, EmbeddingFile], key: str) -> Embeddings:
    """Number the vectors of files, by their names, from the end of each tower's vocabulary on.

    Raises:
        CheckpointError: one doesn't fit the model, by its name.
    """
    towers = clip_of(model).towers
    widths = tuple(tower.width for tower in towers)
    for name, file in files.items():
        if file.widths != widths:
            detail = f"embedding {name!r} is {_listed(file.widths)} wide; model {model.id} reads {_listed(widths)}"
            raise CheckpointError(detail, field="embeddings", value=name, bound=list(widths))
    numbers = []
    for tower in towers:
        start, own = tower.vocab_size, {}
        for name, file in files.items():
            own[name.lower()] = range(start, start := start + file.vectors)
        numbers.append(own)
    vectors = tuple(torch.cat([file.towers[i].float() for file in files.values()]) for i in range(len(towers)))
    return Embeddings(key, tuple(numbers), tuple(own.to(model.device) for own in vectors))


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(map(str, widths))
