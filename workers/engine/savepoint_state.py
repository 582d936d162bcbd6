"""A job's state between two calls as bytes: safetensors, float32, of what noise and the request don't say again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from workers.engine.denoise import Picture


def snapshot(pictures: Sequence[Picture]) -> bytes:
    """Position, latent and stored predictions of every image of a job, in their order."""
    tensors: dict[str, Tensor] = {}
    for index, picture in enumerate(pictures):
        tensors[f"{index}.position"] = torch.tensor([picture.position])
        latents = [picture.z_t, *picture.predictions]
        tensors[f"{index}.latents"] = torch.stack(latents).cpu().clone()  # 1+k c h w
    return save(tensors)


def restore(pictures: Sequence[Picture], state: bytes) -> None:
    """Bring freshly made images to the state that `snapshot` saved.

    Raises:
        ValueError: the state is of another plan or latent shape.
    """
    try:
        tensors = load(state)
    except SafetensorError as error:
        raise ValueError(f"no state of a job: {error}") from error
    if len(tensors) != 2 * len(pictures):
        raise ValueError(f"a state of {len(tensors) / 2:g} images for {len(pictures)}")
    for index, picture in enumerate(pictures):
        position = int(tensors[f"{index}.position"].item())
        z_t, *predictions = tensors[f"{index}.latents"].to(picture.z_t.device)
        _check(index, picture, position, [z_t, *predictions])
        picture.position, picture.z_t, picture.predictions = position, z_t, predictions


def _check(index: int, picture: Picture, position: int, latents: Sequence[Tensor]) -> None:
    history = picture.plan.history
    fits = position < len(history) and len(latents) == 1 + history[position]
    if not fits or latents[0].shape != picture.z_t.shape:
        shape = [len(latents), *latents[0].shape]
        raise ValueError(f"image {index} at row {position} has a state of {shape}, which isn't one of its plan's")
