"""A job's state between two calls as bytes: safetensors, float32, of what noise and the request don't say again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from workers.calls import Picture


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
        ValueError: the state is of other images or another plan.
    """
    tensors = load(state)
    for index, picture in enumerate(pictures):
        position, latents = int(tensors[f"{index}.position"]), tensors[f"{index}.latents"]
        expected = (1 + picture.plan.history[position], *picture.z_t.shape)
        if latents.shape != expected:
            raise ValueError(f"image {index} at row {position} has state {list(latents.shape)}, not {list(expected)}")
        z_t, *predictions = latents.to(picture.z_t.device)
        picture.position, picture.z_t, picture.predictions = position, z_t, predictions
