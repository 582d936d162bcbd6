"""What a job adds to its model, as it was resolved: LoRAs, ControlNets, embeddings by their hashes; a second pass."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from contract.base import Wire
from contract.samplers import Schedule
from contract.uploads import Upload

Preprocess: TypeAlias = Literal["canny"]
LATENT, LANCZOS = "latent", "lanczos"  # ways to enlarge without a model
MAX_CONTROLS = 4
# Of a second pass that says nothing else, and the most that may be said.
HIRES_SCALE, MAX_HIRES_SCALE = 2.0, 4.0
HIRES_STRENGTH = 0.5
# What a row of a ControlNet costs, in rows of its UNet: by arithmetic 0.33 of Stable Diffusion 1 and 2, 0.44 of XL.
CONTROL_ROW = 0.4


class AppliedLora(Wire):
    """A LoRA of a job: the file with this hash, by whatever name, times `scale`."""

    id: str
    scale: float
    hash: str


class AppliedControl(Wire):
    """A ControlNet of a job: the file with this hash, what it reads, how much of it, and between which parts of the
    steps. `preprocess` canny: its map is drawn from the picture; null: the picture is the map.
    """

    id: str
    image: Upload
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    preprocess: Preprocess | None = Field(default=None, exclude_if=lambda preprocess: preprocess is None)
    hash: str

    def acts_in(self, steps: int) -> bool:
        """Tell whether any of `steps` steps is within its parts as a whole."""
        return any(i / steps >= self.start and (i + 1) / steps <= self.end for i in range(steps))


class AppliedEmbedding(Wire):
    """An embedding that a prompt names, in any case: the file with this hash."""

    name: str
    hash: str


class AppliedUpscaler(Wire):
    """A model that enlarges what the first pass drew: the weights with this hash, run by that model's defaults."""

    id: str
    hash: str
    scale: int
    steps: int
    sampler: str
    eta: float = 0.0
    schedule: Schedule | None = None
    guidance_scale: float = 1.0
    noise_level: int | None = None


class Hires(Wire):
    """A second pass: the picture is enlarged `scale` times by `upscaler` (latent, lanczos or a model's id), then drawn
    over with `strength`: the last int(steps · strength) of `steps`.
    """

    scale: float
    strength: float
    steps: int
    upscaler: str
    enlarged_by: AppliedUpscaler | None = Field(default=None, exclude_if=lambda upscaler: upscaler is None)

    @property
    def run_steps(self) -> int:
        """Steps of one image behind the first pass."""
        return max(1, int(self.steps * self.strength)) + (self.enlarged_by.steps if self.enlarged_by else 0)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that a picture has in the end."""
        return round(width * self.scale), round(height * self.scale)
