"""Embeddings of the reference cases, for tests of what reads them; they fit `tests.loras.small_sd`."""

from __future__ import annotations

import shutil
from pathlib import Path

from contract.add_ons import AppliedEmbedding
from models.add_ons.embeddings.library import EmbeddingLibrary
from models.add_ons.embeddings.scan import scan_embeddings
from tests.parity.run import CASES
from workers.library.catalogue import find_embeddings

CASE = CASES / "text"
SD1 = CASE / "textual_inversion_sd1"
FILES = ("diffusers_style.safetensors", "webui-style.pt", "webui-tensors.safetensors")


def write_embeddings(models_dir: Path) -> Path:
    """Fill the folder embeddings of a models directory. Returns it."""
    folder = models_dir / "embeddings"
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copy(SD1 / name, folder)
    return folder


def library_of(models_dir: Path) -> EmbeddingLibrary:
    """The embeddings of a models directory, found as a worker finds them."""
    scan_embeddings(models_dir)
    return EmbeddingLibrary(find_embeddings(models_dir))


def applied(models_dir: Path, *names: str) -> list[AppliedEmbedding]:
    """What requests that name these resolve to."""
    cards = {item.card.name: item.card for item in scan_embeddings(models_dir) if item.card is not None}
    return [AppliedEmbedding(name=name, hash=cards[name].hash) for name in names]
