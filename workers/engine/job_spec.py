"""All of a job that is known before a network runs: its plan, its size inside the model, its uploads decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from contract.request import JobRequest
from models.add_ons.embeddings.library import Embeddings
from models.add_ons.loras.library import Adapters
from models.networks.controlnet import Control
from models.pipeline.pipeline import LatentDiffusion
from models.samplers import Plan
from workers.engine.pictures import Frame


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a request, or a stage of one, means for its model."""

    model: LatentDiffusion
    request: JobRequest
    plan: Plan
    frame: Frame  # the uploaded picture's where the kind enlarges it, the answer's for all else
    scale: int  # pixels of the answer per pixel of the frame
    pictures: Mapping[str, Image.Image]  # decoded uploads, by the names of their fields
    guided: bool
    adapters: Adapters | None = None  # of its LoRAs, once it is prepared
    controls: tuple[Control, ...] = ()  # once it is prepared
    embeddings: Embeddings | None = None  # that its texts name, likewise
    purpose: str = ""  # begins those of its noise: each stage of a job draws its own
    latent: Tensor | None = None  # c h w of what the stage before made, where that isn't among the pictures

    @property
    def rows_per_step(self) -> int:
        """Its rows in a guided call: one, and those that it is led away from."""
        pictured = self.model.config.concat == "source" and self.request.image_guidance != 1.0
        return 1 if not self.guided else 3 if pictured else 2

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of z_t."""
        width, height = self.frame.padded
        f = self.model.latent_factor
        return self.model.latent_channels, height * self.scale // f, width * self.scale // f
