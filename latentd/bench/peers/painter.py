"""What a peer does with requests: a checkpoint's folder through diffusers and transformers, a batch at a time."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from latentd.bench.diffusers_loop import Condition, DiffusersModel

Request = Mapping[str, Any]


def key(request: Request) -> object:
    """What one call of a pipeline has one of."""
    return request["kind"], request["steps"], request["guidance_scale"], request["width"], request["height"]


@dataclass(slots=True)
class Painter:
    """A text and inpainting checkpoint. Requests have the fields of latentd's: kind, prompt, seed, steps,
    guidance_scale, width, height, and in base64 image and mask."""

    model: DiffusersModel
    text_encoder: Any
    tokenizer: Any
    device: str
    dtype: torch.dtype
    _blank: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, device: str, dtype: str, threads: int) -> Painter:
        torch.set_num_threads(threads)
        kind: torch.dtype = getattr(torch, dtype)
        vae = AutoencoderKL.from_pretrained(folder / "vae")  # type: ignore[no-untyped-call]
        vae = vae.to(device, kind).eval()
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")  # type: ignore[no-untyped-call]
        schedule = DDIMScheduler.load_config(folder / "scheduler")
        text: Any = BertModel.from_pretrained(folder / "text_encoder")
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        model = DiffusersModel(unet.to(device, kind).eval(), vae, schedule)
        return cls(model, text.to(device, kind).eval(), tokenizer, device, kind)

    @torch.inference_mode()
    def paint(self, requests: Sequence[Request]) -> list[bytes]:
        """Answer requests in their order with PNG files: those that are alike in one call, one call after another."""
        answers: dict[int, bytes] = {}
        while waiting := [i for i in range(len(requests)) if i not in answers]:
            batch = [i for i in waiting if key(requests[i]) == key(requests[waiting[0]])]
            answers.update(zip(batch, self._alike([requests[i] for i in batch]), strict=True))
        return [answers[i] for i in range(len(requests))]

    def _alike(self, requests: Sequence[Request]) -> list[bytes]:
        first, vae = requests[0], self.model.vae
        guided = first["guidance_scale"] not in (0.0, 1.0)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (vae.config.latent_channels, first["height"] // factor, first["width"] // factor)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(one["seed"])) for one in requests]
        condition = Condition(
            context=self._encode([one["prompt"] for one in requests]),
            null=self._encode([""] * len(requests)) if guided else None,
            concat=torch.cat([self._concat(one) for one in requests]),
        )
        z_t = torch.stack(noise).to(self.device, self.dtype)
        z = self.model.denoise(z_t, condition, first["steps"], first["guidance_scale"])
        pictures = zip(requests, self.model.decode(z), strict=True)
        return [_png(_pasted(one, picture)) for one, picture in pictures]

    def _encode(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        hidden: Tensor = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        return hidden

    def _concat(self, request: Request) -> Tensor:
        """Mask and masked latent, 1 k h w; text to image is inpainting of a grey picture that is masked everywhere."""
        size = request["width"], request["height"]
        if request["kind"] == "inpaint":
            return self._masked(_picture(request["image"], "RGB"), _picture(request["mask"], "L"))
        if size not in self._blank:
            self._blank[size] = self._masked(Image.new("RGB", size, (128, 128, 128)), Image.new("L", size, 255))
        return self._blank[size]

    def _masked(self, image: Image.Image, mask: Image.Image) -> Tensor:
        vae = self.model.vae
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]  # 1 3 H W
        hole = torch.from_numpy(np.asarray(mask, dtype=np.float32) >= 128).float()[None, None]  # 1 1 H W
        x = (pixels * (1 - hole)).to(self.device, vae.dtype)
        latent = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        small = F.interpolate(hole, size=latent.shape[2:], mode="nearest")
        return torch.cat([small.to(self.device, self.dtype), latent.to(self.dtype)], dim=1)


def _picture(text: str, mode: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert(mode)


def _pasted(request: Request, picture: Image.Image) -> Image.Image:
    """Keep what is outside the mask."""
    if request["kind"] != "inpaint":
        return picture
    return Image.composite(picture, _picture(request["image"], "RGB"), _picture(request["mask"], "L"))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
