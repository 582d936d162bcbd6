"""What an embedding file is, for people."""

from __future__ import annotations

from pathlib import Path

from core.errors import CheckpointError
from models.add_ons.embeddings.files import read_embedding
from models.add_ons.embeddings.scan import FAMILIES
from models.checkpoints.files.weights import holds_safetensors, is_weights
from models.checkpoints.inspect import Part, Report

MOST_BYTES = 1 << 24  # what is larger is looked at as something else


def inspect_embedding(path: Path) -> Report | None:
    """Read an embedding file of a known family; None of another, whose faults are for others to tell."""
    if not is_weights(path) or path.stat().st_size > MOST_BYTES:
        return None
    try:
        file = read_embedding(path)
    except CheckpointError:
        return None
    if (family := FAMILIES.get(file.widths)) is None:  # any file of one tensor could be one
        return None
    facts = {
        "family": family,
        "vectors": f"{file.vectors}, {' and '.join(map(str, file.widths))} wide",
        "prompts call it": path.stem,
    }
    layout = f"embedding, {'safetensors' if holds_safetensors(path) else 'torch pickle'}"
    parts = [
        Part(f"tower {i}", vectors.numel(), (str(vectors.dtype).removeprefix("torch."),))
        for i, vectors in enumerate(file.towers, 1)
    ]
    notes = ("prompts name an embedding: its place is the folder embeddings of LATENTD_MODELS_DIR",)
    return Report(path, layout, "Vectors that a word of prompts stands for.", (), tuple(parts), facts, notes)
