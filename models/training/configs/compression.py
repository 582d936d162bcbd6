"""What the compression study is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from models.training.configs.autoencoder import LossConfig
from models.training.configs.base import DataConfig, OptimizerConfig, Strict
from models.training.configs.diffusion import ScheduleShape, UNetShape

Factor = Literal[1, 2, 4, 8, 16, 32]
# Of the latents: the paper's (Tab. 13) but for f = 2, which has 2 there; a pass-through start needs one a colour.
CHANNELS: dict[int, int] = {1: 3, 2: 3, 4: 3, 8: 4, 16: 8, 32: 32}


class FirstStages(Strict):
    """The first stages, alike but for their factor."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    width: int = Field(default=16, ge=6)  # channels of the first level; each level has twice as many, up to 8 times
    optimizer: OptimizerConfig
    losses: LossConfig = LossConfig(perceptual=0.0, adversarial=0.0)


class Diffusions(Strict):
    """The UNets, of one shape whatever the factor: only the convolutions in and out differ."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    unet: UNetShape
    optimizer: OptimizerConfig
    schedule: ScheduleShape = ScheduleShape()


class CompressionStudy(Strict):
    """Fig. 6 and 7 of the paper (§4.1): factors at equal steps and parameters, unconditionally."""

    out: Path
    seed: int = Field(default=0, ge=0)
    data: DataConfig
    factors: tuple[Factor, ...] = (1, 2, 4, 8, 16, 32)
    first_stage: FirstStages
    diffusion: Diffusions
    measures: int = Field(default=4, ge=1)  # during the training, at equal distances
    pictures: int = Field(default=64, ge=5)  # that are sampled for each
    sample_steps: int = Field(default=20, ge=1)  # of these
    throughput_steps: tuple[int, ...] = (5, 10, 20, 50)  # of ddim, at the end
    classifier_steps: int = Field(default=300, ge=1)  # of the network that measures

    @model_validator(mode="after")
    def _fits(self) -> CompressionStudy:
        if not self.factors or len(set(self.factors)) < len(self.factors):
            raise ValueError(f"factors are {list(self.factors)}; each must be there once")
        whole = max(self.factors) * 2 ** (len(self.diffusion.unet.channels) - 1)
        if self.data.size % whole:
            raise ValueError(f"data.size is {self.data.size}; it must be a multiple of {whole}, largest factor × UNet")
        if self.diffusion.steps < self.measures:
            raise ValueError(f"measures is {self.measures}; diffusion.steps is {self.diffusion.steps}, fewer")
        bound = self.diffusion.schedule.timesteps
        wrong = next((steps for steps in (self.sample_steps, *self.throughput_steps) if not 1 <= steps <= bound), None)
        if wrong is not None:
            raise ValueError(f"sample_steps and throughput_steps are from 1 to {bound}, the timesteps; one is {wrong}")
        return self
