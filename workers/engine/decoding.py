"""From finished latents to pixels or to what a next stage begins with, and from a predicted x0 to a preview."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from workers.engine.device import Aside, Side
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import Frame, preview, to_picture
from workers.engine.turn_policy import DECODE_CHUNK


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


@dataclass(frozen=True, slots=True)
class Sketch:
    """What the network sees an image become, at a step of this stage: the predicted x0, c h w."""

    spec: JobSpec
    x0: Tensor


def previews(sketches: Mapping[int, Sketch], side: int) -> dict[int, bytes]:
    """Make the previews of images of a job, by their numbers, of at most `side` pixels; a chunk has one stage's."""
    by_stage: dict[int, dict[int, Sketch]] = {}
    for index, sketch in sketches.items():
        by_stage.setdefault(id(sketch.spec), {})[index] = sketch
    return {
        index: preview(x, side)
        for stage in by_stage.values()
        for chunk in _chunks(stage)
        for index, x in zip(chunk, _decode_sketches([*chunk.values()], side), strict=True)
    }


def _chunks(sketches: Mapping[int, Sketch]) -> Iterator[dict[int, Sketch]]:
    left = iter(sketches.items())
    while chunk := dict(islice(left, DECODE_CHUNK)):
        yield chunk


def _decode_sketches(chunk: Sequence[Sketch], side: int) -> Tensor:
    """Make pictures b 3 h w, on the host, of little more than `side` pixels; large latents are averaged first."""
    model, z = chunk[0].spec.model, torch.stack([sketch.x0 for sketch in chunk])  # b c h w
    longest = max(z.shape[2:]) * model.latent_factor
    return model.preview(F.avg_pool2d(z, max(1, longest // side), ceil_mode=True)).float().cpu()


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
