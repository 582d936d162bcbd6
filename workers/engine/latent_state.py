"""The state of an image in latent space between two UNet calls, and the bytes that a savepoint keeps of it.

The bytes are safetensors, float32, of what noise and the request don't say again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    stage: int = 0  # of its job
    passed: int = 0  # the user's steps of the stages before
    purpose: str = ""  # begins those of its noise
    picture: Tensor | None = None  # h w 3, uint8: what the stage before made, where every row reads it
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
        """The user's steps of this stage that are done: with all of their rows."""
        return self.plan.steps if self.done else self.row.step - 1

    @property
    def between_steps(self) -> bool:
        """Whether the row that it passed last was the last one of a user's step."""
        return self.position > 0 and self.plan.rows[self.position - 1].step == self.step

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
            drawn = torch.stack([self._drawn(i) for i in numbers])  # k c h w
            self.ahead = dict(zip(numbers, to_device(drawn, self.z_t.device), strict=True))
        return self.ahead[self.position]

    def _drawn(self, number: int) -> Tensor:
        fresh, share = noise(self.seed, self.purpose + STEP, number, self.z_t.shape), self.plan.rows[number].follows
        if not share:
            return fresh
        before = noise(self.seed, self.purpose + STEP, number - 1, self.z_t.shape)
        return share * before + math.sqrt(1.0 - share * share) * fresh

    def following(self, z_next: Tensor) -> Tensor:
        """Return what this row makes of the latent, c h w, of the picture's own: a view would keep a whole batch in
        memory. Behind the last row the known region is as it was."""
        known, last = self.conditions.known, self.position + 1 == len(self.plan.rows)
        if known is None or not last:
            return z_next.clone()
        return blend_known(z_next, known, self.starting_noise, 1.0, 0.0)

    def advance(self, z_next: Tensor, p: Tensor) -> None:
        """Go to the next row with tensors of its own, keeping what that and later rows read."""
        self.position += 1
        self.predictions = [p, *self.predictions][: self.plan.history[self.position]]
        self.z_t = z_next


@dataclass(frozen=True, slots=True)
class Saved:
    """What a savepoint has of an image: `latents` are z_t and the stored predictions, 1+k c h w."""

    position: int
    latents: Tensor
    stage: int = 0
    picture: Tensor | None = None  # h w 3, uint8


def snapshot(images: Sequence[LatentState]) -> bytes:
    """Serialise position, latent and stored predictions of every image of a job, in their order.

    Of a later stage its number too, and the picture that it reads.
    """
    tensors: dict[str, Tensor] = {}
    for index, image in enumerate(images):
        tensors[f"{index}.position"] = torch.tensor([image.position])
        latents = [image.z_t, *image.predictions]
        tensors[f"{index}.latents"] = torch.stack(latents).cpu().clone()  # 1+k c h w
        if image.stage:
            tensors[f"{index}.stage"] = torch.tensor([image.stage])
        if image.picture is not None:
            tensors[f"{index}.picture"] = image.picture
    return save(tensors)


def saved_of(state: bytes, images: int) -> list[Saved]:
    """Read what `snapshot` wrote of so many images.

    Raises:
        ValueError: it is of another number of images, or none.
    """
    try:
        tensors = load(state)
    except SafetensorError as error:
        raise ValueError(f"no state of a job: {error}") from error
    count = sum(name.endswith(".position") for name in tensors)
    if count != images or any(f"{index}.latents" not in tensors for index in range(count)):
        raise ValueError(f"a state of {count} images for {images}")
    return [_saved(tensors, index) for index in range(count)]


def _saved(tensors: Mapping[str, Tensor], index: int) -> Saved:
    stage = tensors.get(f"{index}.stage")
    return Saved(
        int(tensors[f"{index}.position"].item()),
        tensors[f"{index}.latents"],
        0 if stage is None else int(stage.item()),
        tensors.get(f"{index}.picture"),
    )


def check_saved(saved: Saved, latent: tuple[int, ...], picture: tuple[int, ...]) -> None:
    """Check that a state is of latents c h w and, where it has one, of a picture h w 3 of these shapes.

    Raises:
        ValueError: it isn't.
    """
    latents, pixels = saved.latents, saved.picture
    if len(latents) == 0 or latents.shape[1:] != latent:
        raise ValueError(f"a state of {[*latents.shape]} for latents of {[*latent]}")
    if pixels is not None and (pixels.shape != picture or pixels.dtype != torch.uint8):
        raise ValueError(f"a state with a picture of {[*pixels.shape]} for one of {[*picture]}")


def restore(image: LatentState, saved: Saved) -> None:
    """Bring a freshly made image, of the stage that was saved, to the state that was.

    Raises:
        ValueError: the state is of another plan or latent shape.
    """
    history, latents = image.plan.history, saved.latents
    fits = 0 <= saved.position < len(history) and len(latents) == 1 + history[saved.position]
    if not fits or latents.shape[1:] != image.z_t.shape:
        raise ValueError(f"a state of {[*latents.shape]} at row {saved.position}, which isn't one of its plan's")
    z_t, *predictions = latents.to(image.z_t.device)
    image.position, image.z_t, image.predictions = saved.position, z_t, predictions
