"""Prompts of any length: chunks of CLIP's window, each encoded by itself, tokens weighed, contexts in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from core.errors import CheckpointError
from models.networks.conditioning import Encoded, TextConfig, Told
from models.pipeline.pipeline import LatentDiffusion


@dataclass(frozen=True, slots=True)
class Chunk:
    """Token numbers between start and end, and what each weighs."""

    numbers: tuple[int, ...]
    weights: tuple[float, ...]


def clip_of(model: LatentDiffusion) -> TextConfig:
    """Return the towers of CLIP that read a model's prompts.

    Raises:
        CheckpointError: it has none, or no tokenizer.
    """
    text = model.config.conditioner
    if not isinstance(text, TextConfig) or text.kind != "clip" or not model.tokenizers:
        raise CheckpointError(f"{model.id}: no text encoder of CLIP")
    return text


def encode_chunks(model: LatentDiffusion, chunks: Sequence[Sequence[Chunk]], told: Sequence[Told]) -> Encoded:
    """Encode one prompt, by the chunks of each tower: context 1 (chunks · window) d, pooled vector of the first chunk.

    Raises:
        CheckpointError: the model has no CLIP.
    """
    text = clip_of(model)
    # A tower with another vocabulary may need fewer chunks; it reads nothing in those that it lacks.
    parts = [_encoded(model, text, own, told) for own in zip_longest(*chunks, fillvalue=Chunk((), ()))]
    return Encoded(torch.cat([part.context for part in parts], dim=1), parts[0].pooled)


def _encoded(model: LatentDiffusion, text: TextConfig, chunk: Sequence[Chunk], told: Sequence[Told]) -> Encoded:
    """Encode a chunk as each tower reads it; each tower's states are weighed by themselves."""
    framed = [tokenizer.framed(own.numbers) for tokenizer, own in zip(model.tokenizers, chunk, strict=True)]
    encoded = model.encode_tokens([(torch.tensor([ids]), None) for ids in framed], told)
    if all(weight == 1.0 for own in chunk for weight in own.weights):
        return encoded
    states = torch.split(encoded.context, [tower.width for tower in text.towers], dim=2)
    return encoded._replace(
        context=torch.cat([_weighed(state, own) for state, own in zip(states, chunk, strict=True)], dim=2)
    )


def _weighed(state: Tensor, chunk: Chunk) -> Tensor:
    """Multiply 1 n d by each token's weight, and bring its mean back to where it was, as A1111 does."""
    padded = torch.ones(state.shape[1], device=state.device)  # n
    padded[1 : len(chunk.weights) + 1] = torch.tensor(chunk.weights)
    whole = state.float()
    heavier = whole * padded[:, None]
    return (heavier * (whole.mean() / heavier.mean())).to(state.dtype)
