"""What a checkpoint is, whatever file it came from: the configs of its parts and how they fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from models.networks.autoencoder import AutoencoderConfig
from models.networks.conditioning import ClassConfig, Conditioner, TextConfig, TowerConfig
from models.networks.unet import UNetConfig
from models.schedule import ScheduleConfig

# What follows z_t on the UNet's input channels:
#   mask-latent   mask in {0, 1}, scaled latent of the masked picture   (SD inpainting, 9 channels)
#   latent-mask   latent of the masked picture, mask in {−1, 1}         (LDM inpainting, 7 channels)
#   low-res       the small picture in [−1, 1]                          (LDM-SR 6, SD x4 upscaler 7 channels)
#   map           the rescaled label map                                (semantic synthesis)
#   source        unscaled latent of the picture that is changed        (InstructPix2Pix, 8 channels)
#   depth         how near each pixel is, in [−1, 1]                    (SD 2 depth, 5 channels)
Concat: TypeAlias = Literal["mask-latent", "latent-mask", "low-res", "map", "source", "depth"]

SIZED, SCORED = 6, 5  # numbers beside the pooled text of SDXL: two sizes and a crop; a size, a crop and a score
IMAGENET = 1000  # classes of the one published embedder without a null class


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The internal form of a whole latent diffusion model, less its weights."""

    unet: UNetConfig
    first_stage: AutoencoderConfig
    schedule: ScheduleConfig
    scale_factor: float  # network latents = scale_factor · first-stage latents (paper App. D.1)
    conditioner: Conditioner | None = None
    zeros_for_no_prompt: bool = False  # guidance without a negative prompt leads away from zeros, not from ""
    concat: Concat | None = None
    low_res_schedule: ScheduleConfig | None = None  # noises the small picture (SD x4 upscaler)
    latent_size: int | None = None  # height and width of training latents, where the files say

    def first_stage_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the precision of the first stage's weights in a model of `dtype`.

        Of diffusers' pipelines SDXL's and the x4 upscaler's alone heed `force_upcast`, which folders of all models say.
        """
        overflows = self.unet.added_dim is not None or self.low_res_schedule is not None
        return torch.float32 if overflows and self.first_stage.force_upcast else dtype

    @property
    def added_numbers(self) -> int:
        """How many numbers the network reads beside the pooled text: six sizes and crops, or four and a score."""
        if self.unet.added_dim is None or not isinstance(self.conditioner, TextConfig):
            return 0
        return (self.unet.added_dim - (self.conditioner.pooled or 0)) // self.unet.added_sinusoids

    @property
    def refines(self) -> bool:
        """Whether it is SDXL's refiner, which reads a score of the picture and finishes what another model began."""
        return self.added_numbers == SCORED

    @property
    def layout(self) -> TowerConfig | None:
        """What reads boxes with their classes (paper §4.3.1); None where the model isn't drawn by them."""
        towers = self.conditioner.towers if isinstance(self.conditioner, TextConfig) else ()
        return next((tower for tower in towers if tower.boxes), None)

    @property
    def null_class(self) -> int | None:
        """The class that guidance leads away from: an embedder's last one (paper App. C)."""
        if not isinstance(self.conditioner, ClassConfig) or self.conditioner.classes == IMAGENET:
            return None
        return self.conditioner.classes - 1

    @property
    def guidable(self) -> bool:
        """Whether there is an unconditional answer to lead away from: the empty text's, or the null class's."""
        return isinstance(self.conditioner, TextConfig) or self.null_class is not None

    @property
    def classes(self) -> int | None:
        """How many classes can be asked for; None where the model isn't class-conditional."""
        if isinstance(self.conditioner, ClassConfig):
            return self.conditioner.classes if self.null_class is None else self.null_class
        return self.unet.num_classes if self.low_res_schedule is None else None
