"""The state of an image in latent space between two UNet calls, and the bytes that a savepoint keeps of it.

The bytes are safetensors, float32, of what noise and the request don't say again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.networks.adapters import Layers
from models.networks.controlnet import Control
from models.samplers import Plan, Row
from models.samplers.noise import STEP, noise
from models.samplers.update import table_of
from workers.engine.conditioning import Conditions, blend_known
from workers.engine.device import to_device

NOISE_AHEAD = 8  # rows


@dataclass(slots=True, eq=False)
class LatentState:
    """One image: z_t, its place in the plan, and the predictions that next rows read."""

    seed: int
    plan: Plan
    conditions: Conditions
    guidance: float | None  # its scale; None: one row, without guidance
    starting_noise: Tensor  # c h w
    z_t: Tensor  # c h w
    position: int = 0
    guidance_rescale: float = 0.0  # of each row's contrast under guidance
    predictions: list[Tensor] = field(default_factory=list)  # c h w each, newest first
    denoise_s: float = 0.0
    adapters: Layers | None = None  # that the UNet's layers get for its rows
    controls: Sequence[Control] = ()
    image_guidance: float = 1.0  # its scale, where the conditions have a row without the picture
    # What every row reads, on the device before the first one: a copy in between would stop it.
    table: Tensor = field(init=False)  # r k
    scale: Tensor | None = field(init=False)  # of guidance
    ahead: dict[int, Tensor] = field(default_factory=dict, init=False)  # noise c h w of the next rows that add any

    def __post_init__(self) -> None:
        device = self.z_t.device
        self.table = table_of(self.plan.rows, device)
        self.scale = None if self.guidance is None else torch.tensor(self.guidance, device=device)

    @property
    def row(self) -> Row:
        return self.plan.rows[self.position]

    @property
    def guidance_scale(self) -> float | None:
        """That of the next call; None outside the plan's guidance interval, too."""
        return self.guidance if self.row.guided else None

    @property
    def done(self) -> bool:
        return self.position == len(self.plan.rows)

    @property
    def step(self) -> int:
        """The user's steps that are done: with all of their rows."""
        return self.plan.steps if self.done else self.row.step - 1

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

    def coefficients(self) -> Tensor:
        """Return this row of the table, k."""
        return self.table[self.position]

    def noise(self) -> Tensor:
        """Return what this row adds, c h w; drawn for some rows at a time, so that they are copied together."""
        if self.position not in self.ahead:
            left = range(self.position, len(self.plan.rows))
            numbers = list(islice((i for i in left if self.plan.rows[i].noise), NOISE_AHEAD))
            drawn = torch.stack([noise(self.seed, STEP, i, self.z_t.shape) for i in numbers])  # k c h w
            self.ahead = dict(zip(numbers, to_device(drawn, self.z_t.device), strict=True))
        return self.ahead[self.position]

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
