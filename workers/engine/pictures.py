"""Pictures on their way into and out of latent space: tensors, padding, pasting back, and the files that are stored."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from contract.add_ons import LANCZOS, LATENT, AppliedControl, AppliedEmbedding, AppliedLora
from contract.common import OutputFormat
from contract.request import JobRequest, Txt2ImgRequest
from core.errors import JobFailed
from core.version import __version__

PREVIEW_SIDE = 256  # longest side of a preview, in pixels
JPEG_QUALITY = 95
# What `parameters` says of fields that only some kinds have.
NOTES = {
    "class_id": "Class",
    "noise_level": "Noise level",
    "strength": "Denoising strength",
    "schedule": "Schedule type",
    "timesteps": "Timesteps",
    "guidance_interval": "Guidance interval",
    "clip_skip": "Clip skip",
    "image_guidance_scale": "Image CFG scale",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture of width × height pixels in the middle of one whose sides are multiples of a model's stride."""

    width: int
    height: int
    stride: int

    @property
    def padded(self) -> tuple[int, int]:
        """(width, height) inside the model."""
        return _ceil(self.width, self.stride), _ceil(self.height, self.stride)

    @property
    def offset(self) -> tuple[int, int]:
        """(left, top) of the picture in the padded one."""
        return (self.padded[0] - self.width) // 2, (self.padded[1] - self.height) // 2

    def pad(self, x: Tensor) -> Tensor:
        """Pad b c height width to b c H W, the edge repeated outwards."""
        left, top = self.offset
        right, bottom = self.padded[0] - self.width - left, self.padded[1] - self.height - top
        return F.pad(x, (left, right, top, bottom), mode="replicate")

    def crop(self, x: Tensor, scale: int = 1) -> Tensor:
        """Undo `pad`, for a picture `scale` times as large: … H·s W·s → … height·s width·s."""
        left, top = self.offset[0] * scale, self.offset[1] * scale
        return x[..., top : top + self.height * scale, left : left + self.width * scale]

    def part(self, x: Tensor) -> Tensor:
        """Undo `pad` in a picture of any size, … h w, to the pixel."""
        down, across = (x.shape[axis] / self.padded[side] for axis, side in ((-2, 1), (-1, 0)))
        left, top = round(self.offset[0] * across), round(self.offset[1] * down)
        return x[..., top : top + max(1, round(self.height * down)), left : left + max(1, round(self.width * across))]


def _ceil(value: int, stride: int) -> int:
    return -(-value // stride) * stride


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB or RGBA picture as 1 3 h w in [−1, 1], float32; alpha is left out."""
    pixels = np.array(image.convert("RGB"), dtype=np.float32)  # h w 3
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 127.5 - 1.0


def mask_tensor(mask: Image.Image) -> Tensor:
    """Return a mask of 0 and 255 as 1 1 h w of 0 and 1, float32."""
    return torch.from_numpy(np.array(mask, dtype=np.float32))[None, None] / 255.0


def depth_tensor(depth: Image.Image) -> Tensor:
    """Return 16 bits of grey as 1 1 h w in [0, 1], float32."""
    return torch.from_numpy(np.array(depth, dtype=np.float32))[None, None] / 65_535.0


def to_picture(x: Tensor) -> Image.Image:
    """Return a decoded picture 3 h w, clamped to [−1, 1], as 8-bit RGB.

    Raises:
        JobFailed: a pixel is NaN or infinite.
    """
    if not bool(torch.isfinite(x).all()):
        raise JobFailed("the decoded picture has NaN or infinite pixels", field="pixels", value="NaN", bound="finite")
    levels = ((x.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy(), "RGB")


def paste(upload: Image.Image, painted: Image.Image, mask: Image.Image, feather: int) -> Image.Image:
    """Paint over the upload where the mask is 255, opaque; it keeps its bytes further than `feather` px outside.

    Within `feather` pixels outside, the painted share falls linearly with the distance to the mask.
    All three have one size; the upload is RGB or RGBA, as is the answer.
    """
    box = _reach(mask, feather)
    answer = upload.copy()
    answer.paste(_blend(upload.crop(box), painted.crop(box), np.array(mask.crop(box)) > 0, feather), box)
    return answer


def _reach(mask: Image.Image, feather: int) -> tuple[int, int, int, int]:
    """Return the box of all pixels that may change, so that a small repair of a large picture costs little."""
    left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
    return (
        max(0, left - feather),
        max(0, top - feather),
        min(mask.width, right + feather),
        min(mask.height, bottom + feather),
    )


def _blend(below: Image.Image, above: Image.Image, inside: NDArray[np.bool_], feather: int) -> Image.Image:
    share = _shares(inside, feather)[..., None]  # h w 1
    old = np.array(below, dtype=np.float32)  # h w c
    new = np.array(above.convert(below.mode), dtype=np.float32)
    blended = _over(old, new, share) if below.mode == "RGBA" else share * new + (1.0 - share) * old
    blended = np.where(share > 0.0, np.rint(blended), old)
    return Image.fromarray(blended.astype(np.uint8), below.mode)


def _over(old: NDArray[np.float32], new: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix RGBA h w 4: colours weigh as much as they are seen, or transparent black would leave a dark edge."""
    weights = share * new[..., 3:], (1.0 - share) * old[..., 3:]  # h w 1 each
    alpha = weights[0] + weights[1]
    colours = (weights[0] * new[..., :3] + weights[1] * old[..., :3]) / np.maximum(alpha, 1e-6)
    return np.concatenate([colours, alpha], axis=-1)


def _shares(inside: NDArray[np.bool_], feather: int) -> NDArray[np.float32]:
    """Return 1 inside, 1 − d / (feather + 1) at a distance d ≤ feather outside, else 0."""
    distance = np.sqrt(_squared_distances(inside, feather))
    shares = np.where(distance <= feather, 1.0 - distance / (feather + 1.0), 0.0)
    return shares.astype(np.float32)


def _squared_distances(inside: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Return squared distances to the nearest pixel inside, exact up to `reach` pixels, else larger than reach²."""
    columns = np.where(inside, np.float32(0.0), np.float32((reach + 1) ** 2))
    if reach == 0:
        return columns
    return _nearest(_nearest(columns, reach).T, reach).T


def _nearest(squares: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """The min over |k| ≤ reach of squares[i + k] + k², along the first axis (Felzenszwalb & Huttenlocher 2012, §2)."""
    nearest = squares.copy()
    for k in range(1, min(reach, len(squares) - 1) + 1):
        np.minimum(nearest[k:], squares[:-k] + np.float32(k * k), out=nearest[k:])
        np.minimum(nearest[:-k], squares[k:] + np.float32(k * k), out=nearest[:-k])
    return nearest


def enlarge_alpha(upload: Image.Image, enlarged: Image.Image) -> Image.Image:
    """Return the enlarged picture with the upload's alpha channel, if it has one, at its size (bicubic)."""
    if upload.mode != "RGBA":
        return enlarged
    answer = enlarged.copy()
    answer.putalpha(upload.getchannel("A").resize(enlarged.size, Image.Resampling.BICUBIC))
    return answer


def preview(x: Tensor, side: int) -> bytes:
    """Return a decoded picture 3 h w as lossy WebP of at most `side` pixels a side; NaN pixels are black."""
    image = to_picture(torch.nan_to_num(x, nan=-1.0))
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=75, method=2)
    return buffer.getvalue()


def encode_picture(picture: Image.Image, output_format: OutputFormat, text: dict[str, str]) -> bytes:
    """Return the bytes of a stored image; equal pictures and texts give equal bytes.

    PNG carries `text` in its text chunks; WebP is lossless, also under transparent pixels; JPEG is laid on white.
    """
    buffer = io.BytesIO()
    if output_format == "png":
        chunks = PngInfo()
        for key, value in text.items():
            chunks.add_text(key, value)
        picture.save(buffer, "PNG", pnginfo=chunks)
    elif output_format == "webp":
        picture.save(buffer, "WEBP", lossless=True, exact=True)
    else:
        _opaque(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def picture_text(request: JobRequest, index: int, model_hash: str) -> dict[str, str]:
    """Make the text chunks of image `index`: `parameters` in the lines that existing tools read, `latentd` as JSON.

    Where an upload was stored and who is told aren't part of them: a request sent again has equal bytes.
    """
    resolved = request.for_clients().model_dump(
        mode="json",
        round_trip=True,
        exclude_none=True,
        exclude={"webhook_url": True},
    )
    facts = {"version": __version__, "model_hash": model_hash, "index": index, "request": resolved}
    return {
        "parameters": _parameters(request, index, model_hash),
        "latentd": json.dumps(facts, ensure_ascii=False, sort_keys=True),
    }


def _parameters(request: JobRequest, index: int, model_hash: str) -> str:
    facts = {
        "Steps": request.steps,
        "Sampler": request.sampler,
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seeds[index],
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash[:10],
        "Model": request.model,
        **{note: _plain(value) for name, value in request if (note := NOTES.get(name)) is not None},
        **_lora_notes(request.applied_loras),
        **_control_notes(request.applied_controls),
        **_embedding_notes(request.applied_embeddings),
        **_hires_notes(request),
        "Version": f"latentd {__version__}",
    }
    lines = [request.text, f"Negative prompt: {request.negative_text}" if request.negative_text else ""]
    listed = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    return "\n".join([*(line for line in lines if line), listed])


def _lora_notes(loras: Sequence[AppliedLora]) -> dict[str, str]:
    """Name LoRAs as existing tools read them: pairs in quotes."""
    if not loras:
        return {}
    hashes = ", ".join(f"{lora.id}: {lora.hash[:12]}" for lora in loras)
    scales = ", ".join(f"{lora.id}: {lora.scale:g}" for lora in loras)
    return {"Lora hashes": f'"{hashes}"', "Lora scales": f'"{scales}"'}


def _control_notes(controls: Sequence[AppliedControl]) -> dict[str, str]:
    """Name ControlNets as existing tools read them: what each is and does, in quotes."""
    notes = {}
    for number, control in enumerate(controls):
        facts = {
            "Module": control.preprocess or "none",
            "Model": f"{control.id} [{control.hash[:8]}]",
            "Weight": f"{control.scale:g}",
            "Guidance Start": f"{control.start:g}",
            "Guidance End": f"{control.end:g}",
        }
        notes[f"ControlNet {number}"] = '"' + ", ".join(f"{name}: {value}" for name, value in facts.items()) + '"'
    return notes


def _embedding_notes(embeddings: Sequence[AppliedEmbedding]) -> dict[str, str]:
    """Name embeddings as existing tools read them."""
    hashes = ", ".join(f"{each.name}: {each.hash[:12]}" for each in embeddings)
    return {"TI hashes": f'"{hashes}"'} if embeddings else {}


def _hires_notes(request: JobRequest) -> dict[str, str | int]:
    """Say of a second pass what existing tools read of theirs."""
    hires = request.hires if isinstance(request, Txt2ImgRequest) else None
    if hires is None:
        return {}
    named = hires.upscaler.capitalize() if hires.upscaler in (LATENT, LANCZOS) else hires.upscaler
    return {
        "Denoising strength": f"{hires.strength:g}",
        "Hires upscale": f"{hires.scale:g}",
        "Hires steps": hires.steps,
        "Hires upscaler": named,
    }


def _plain(value: object) -> object:
    if isinstance(value, tuple):  # commas would part them from their name
        return " ".join(str(_plain(one)) for one in value)
    return f"{value:g}" if isinstance(value, float) else value
