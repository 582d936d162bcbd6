"""From finished latents to pixels or to what a next stage begins with, and from a predicted x0 to a preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from workers.engine.device import Aside, Side
from workers.engine.job_spec import JobSpec
from workers.engine.pictures import PREVIEW_SIDE, Frame, preview, to_picture
from workers.engine.turn_policy import DECODE_CHUNK

SECOND_SIDE = 128  # longest side of a preview of an image after the first, in pixels: its tile is small, too
RIDGE = 0.05  # per place of a latent
BROKEN = 1e3  # what no latent is; a fit to more might have no solution


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


def previews(sketches: Mapping[int, Sketch]) -> dict[int, bytes]:
    """Make the previews of images of a job, by their numbers."""
    by_stage: dict[int, dict[int, Sketch]] = {}
    for index, sketch in sorted(sketches.items()):
        by_stage.setdefault(id(sketch.spec), {})[index] = sketch
    return {
        index: preview(sketches[index].spec.frame.part(x), SECOND_SIDE if index else PREVIEW_SIDE)
        for stage in by_stage.values()
        for index, x in zip(stage, _pictures([*stage.values()]), strict=True)
    }


def _pictures(sketches: Sequence[Sketch]) -> list[Tensor]:
    """Make pictures 3 h w, on the host, of images of one stage; large latents are averaged first.

    Where no small decoder makes all of them, the first one is decoded and the others are drawn by what that teaches:
    to decode each would make a job of several images half as long again on a CPU.
    """
    model, x0 = sketches[0].spec.model, torch.stack([sketch.x0 for sketch in sketches])  # b c h w
    longest = max(x0.shape[2:]) * model.latent_factor
    z = F.avg_pool2d(x0, max(1, longest // PREVIEW_SIDE), ceil_mode=True)
    decoded = z if model.tiny_decoder is not None else z[:1]
    pictures = torch.cat([model.preview(chunk).float().cpu() for chunk in torch.split(decoded, DECODE_CHUNK)])
    return [*pictures, *(draw_alike(z.float().cpu(), pictures) if len(pictures) < len(z) else ())]


def draw_alike(z: Tensor, picture: Tensor) -> Tensor:
    """Draw latents z (b c h w), but the first, by the linear map that best makes `picture` (1 3 H W) of the first.

    The map is one of the 3 × 3 latents around a place to the place's pixels, by ridge regression:
    W = (XᵀX + λI)⁻¹ Xᵀ(Y − mean Y). It is fitted to the very colours and shades that the other latents have, too.
    """
    h, w = z.shape[2:]
    u = max(1, min(SECOND_SIDE // max(h, w), picture.shape[2] // h))  # pixels of a place, a side
    seen = rearrange(F.unfold(F.pad(z, (1, 1, 1, 1), mode="replicate"), 3), "b k n -> b n k")
    seen = torch.cat([seen, torch.ones_like(seen[..., :1])], dim=-1).double()
    seen = seen.nan_to_num(0.0).clamp(-BROKEN, BROKEN)
    known = F.adaptive_avg_pool2d(picture, (h * u, w * u)).nan_to_num(0.0)
    pixels = rearrange(known, "1 c (h u) (w v) -> (h w) (c u v)", u=u, v=u).double()
    mean, x = pixels.mean(0), seen[0]
    fit = torch.linalg.solve(x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (pixels - mean))
    drawn: Tensor = seen[1:] @ fit + mean  # b n k
    return rearrange(drawn.float(), "b (h w) (c u v) -> b c (h u) (w v)", h=h, u=u, v=u, c=3)


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
