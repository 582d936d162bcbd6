"""The state of an image in latent space between two UNet calls, and the bytes that a savepoint keeps of it.

The bytes are safetensors, float32, of what noise and the request don't say again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.networks.adapters import Layers
from models.networks.controlnet import Control
from models.samplers import Plan, Row
from workers.engine.conditioning import Conditions, blend_known


@dataclass(slots=True, eq=False)
class LatentState:
    """One image: z_t, its place in the plan, and the predictions that next rows read."""

    seed: int
    plan: Plan
    conditions: Conditions
    guidance_scale: float | None  # None: one row, without guidance
    starting_noise: Tensor  # c h w
    z_t: Tensor  # c h w
    position: int = 0
    guidance_rescale: float = 0.0  # of each row's contrast under guidance
    predictions: list[Tensor] = field(default_factory=list)  # c h w each, newest first
    denoise_s: float = 0.0
    adapters: Layers | None = None  # that the UNet's layers get for its rows
    controls: Sequence[Control] = ()

    @property
    def row(self) -> Row:
        return self.plan.rows[self.position]

    @property
    def done(self) -> bool:
        return self.position == len(self.plan.rows)

    @property
    def step(self) -> int:
        """The user's steps that are done."""
        return self.plan.rows[self.position - 1].step if self.position else 0

    @property
    def acting(self) -> list[Control]:
        """The ControlNets that act in this step."""
        return [control for control in self.controls if control.acts(self.step, self.plan.steps)]

    def entering(self) -> Tensor:
        """Return z_t as the network gets it, c h w: where the picture is known, at this row's noise level."""
        known = self.conditions.known
        return (
            self.z_t
            if known is None
            else blend_known(self.z_t, known, self.starting_noise, self.row.alpha, self.row.sigma)
        )

    def advance(self, z_next: Tensor, p: Tensor) -> None:
        """Go to the next row, keeping what that and later rows read."""
        self.position += 1
        self.predictions = [p, *self.predictions][: self.plan.history[self.position]]
        known = self.conditions.known
        ended = known is not None and self.done
        self.z_t = blend_known(z_next, known, self.starting_noise, 1.0, 0.0) if ended and known is not None else z_next


def snapshot(images: Sequence[LatentState]) -> bytes:
    """Serialise position, latent and stored predictions of every image of a job, in their order."""
    tensors: dict[str, Tensor] = {}
    for index, image in enumerate(images):
        tensors[f"{index}.position"] = torch.tensor([image.position])
        latents = [image.z_t, *image.predictions]
        tensors[f"{index}.latents"] = torch.stack(latents).cpu().clone()  # 1+k c h w
    return save(tensors)


def restore(images: Sequence[LatentState], state: bytes) -> None:
    """Bring freshly made images to the state that `snapshot` saved.

    Raises:
        ValueError: the state is of another plan or latent shape.
    """
    try:
        tensors = load(state)
    except SafetensorError as error:
        raise ValueError(f"no state of a job: {error}") from error
    if len(tensors) != 2 * len(images):
        raise ValueError(f"a state of {len(tensors) / 2:g} images for {len(images)}")
    for index, image in enumerate(images):
        position = int(tensors[f"{index}.position"].item())
        z_t, *predictions = tensors[f"{index}.latents"].to(image.z_t.device)
        _check(index, image, position, [z_t, *predictions])
        image.position, image.z_t, image.predictions = position, z_t, predictions


def _check(index: int, image: LatentState, position: int, latents: Sequence[Tensor]) -> None:
    history = image.plan.history
    fits = position < len(history) and len(latents) == 1 + history[position]
    if not fits or latents[0].shape != image.z_t.shape:
        shape = [len(latents), *latents[0].shape]
        raise ValueError(f"image {index} at row {position} has a state of {shape}, which isn't one of its plan's")
