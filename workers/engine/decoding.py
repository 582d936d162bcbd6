"""From finished latents to pixels or to what a next stage begins with, and from a predicted x0 to a preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from workers.engine.device import Aside, Side
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import PREVIEW_SIDE, Frame, to_picture


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


def handed_on(before: JobSpec, after: JobSpec, z: Tensor, *, by_latents: bool) -> JobSpec:
    """Return the stage after with what the one before made of one image, z c h w: its latent, or its decoded picture.

    Raises:
        JobFailed: NaN or infinite pixels.
    """
    if by_latents:
        return replace(after, latent=enlarge(z, before.frame, after.frame, after.model.latent_factor))
    decoded = before.model.decode(z[None]).float()[0]  # 3 H W
    picture, size = to_picture(before.frame.crop(decoded, before.scale)), (after.frame.width, after.frame.height)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return replace(after, pictures={**after.pictures, "image": picture})


def enlarge(z: Tensor, before: Frame, after: Frame, factor: int) -> Tensor:
    """Resize a latent c h w bilinearly, so that the picture in its frame comes to lie on that in the frame after."""
    across = _places(before.width, before.offset[0], z.shape[2], after.width, after.offset[0], after.padded[0], factor)
    down = _places(before.height, before.offset[1], z.shape[1], after.height, after.offset[1], after.padded[1], factor)
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)[None]  # 1 h w 2
    sampled = F.grid_sample(z[None].float(), grid.to(z.device), padding_mode="border", align_corners=False)
    return sampled[0]


def _places(length: int, offset: int, cells: int, new_length: int, new_offset: int, padded: int, factor: int) -> Tensor:
    """Say where the middles of the new cells lie in the old ones, which span -1 to 1."""
    middles = (torch.arange(padded // factor, dtype=torch.float32) + 0.5) * factor  # in pixels of the new frame
    old = offset + (middles - new_offset) * (length / new_length)
    return 2.0 * old / (cells * factor) - 1.0
