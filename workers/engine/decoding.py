"""From finished latents to pixels, and from a predicted x0 to a preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine.device import Aside, Side
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import PREVIEW_SIDE


@dataclass(frozen=True, slots=True)
class UndecodedImage:
    """Image `index` of a job, denoised; `latent` is c h w."""

    job_id: str
    index: int
    spec: JobSpec
    latent: Tensor


def decode(chunk: Sequence[UndecodedImage], side: Side) -> Aside:
    """Begin to decode images of one model and latent shape to b 3 H W, beside the calls of others."""
    model = chunk[0].spec.model
    return side.run(lambda z: model.decode(z).float(), torch.stack([image.latent for image in chunk]))  # b c h w


def decode_preview(spec: JobSpec, x0: Tensor) -> Tensor:
    """Make a picture 3 h w of at most preview size, of the predicted x0 c h w; large latents are averaged first."""
    longest = max(x0.shape[1:]) * spec.model.latent_factor
    z = F.avg_pool2d(x0[None], max(1, longest // PREVIEW_SIDE), ceil_mode=True)  # 1 c h w
    return spec.model.preview(z).float()[0]
