"""Samples of a model, for grids and measures: always of the same conditions and from the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.inputs import Inputs
from models.networks.conditioning import ClassConfig
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from models.samplers.compile import compile_plan
from models.samplers.noise import X_T, noise
from models.training.configs.diffusion import LatentRun

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Shown:
    """What the pictures of a grid are conditioned on: `prompts`, or `labels` b; `concat` b k h w or `maps` b H W."""

    count: int
    prompts: tuple[str, ...] | None = None
    labels: Tensor | None = None
    concat: Tensor | None = None
    maps: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pictures are sampled: `size` pixels a side, by ddim."""

    size: int
    steps: int
    guidance_scale: float
    seed: int

    @classmethod
    def of(cls, run: LatentRun) -> Sampling:
        """Return how a run's grids are sampled."""
        return cls(run.data.size, run.sample_steps, run.guidance_scale, run.seed)


def sampled(model: LatentDiffusion, run: Sampling, shown: Shown) -> Tensor:
    """Sample pictures b 3 H W, about [−1, 1], on the CPU."""
    return torch.cat([*sampled_parts(model, run, shown)])


def sampled_parts(model: LatentDiffusion, run: Sampling, shown: Shown) -> Iterator[Tensor]:
    """Sample what `sampled` does, AT_ONCE pictures at a time."""
    for first in range(0, shown.count, AT_ONCE):
        yield _sampled(model, run, shown, range(first, min(first + AT_ONCE, shown.count)))


@torch.no_grad()
def _sampled(model: LatentDiffusion, run: Sampling, shown: Shown, part: range) -> Tensor:
    size = run.size // model.latent_factor
    shape = (model.latent_channels, size, size)
    z = torch.stack([noise(run.seed + k, X_T, 0, shape) for k in part])
    plan = compile_plan("ddim", model.schedule, run.steps)
    z = sample(model, plan, z, _conditioning(model, run, shown, part))
    return model.decode(z).float().cpu()


def _conditioning(model: LatentDiffusion, run: Sampling, shown: Shown, part: range) -> Conditioning:
    chosen = slice(part.start, part.stop)
    concat = None if shown.concat is None else shown.concat[chosen]
    if shown.maps is not None:
        concat = model.map_concat(shown.maps[chosen])
    context = blank = labels = None
    if shown.prompts is not None:
        context, blank = (
            model.encode_prompts(shown.prompts[chosen]).context,
            model.encode_prompts([""] * len(part)).context,
        )
    if shown.labels is not None:
        context, blank, labels = _of_classes(model, shown.labels[chosen])
    unconditional = None if blank is None else Inputs(context=blank, concat=concat, labels=labels)
    return Conditioning(Inputs(context=context, concat=concat, labels=labels), unconditional, run.guidance_scale)


def _of_classes(model: LatentDiffusion, labels: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return context and null context of an embedder, and what is added to the time embedding; None where it isn't."""
    context = blank = None
    if isinstance(model.config.conditioner, ClassConfig):
        context = model.encode_labels(labels)
        if model.config.null_class is not None:
            blank = model.encode_labels(torch.full_like(labels, model.config.null_class))
    return context, blank, None if model.config.unet.num_classes is None else labels
