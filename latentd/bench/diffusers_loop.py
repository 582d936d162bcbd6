"""Denoising and decoding as diffusers' pipelines do it, for UNets that no pipeline of its takes (33 channels, say).

Imports torch and diffusers alone, so that servers of other environments can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Condition:
    """What the UNet reads beside z_t and t, for b pictures; `null` is what guidance leads away from."""

    context: Tensor | None = None  # b n d
    null: Tensor | None = None  # b n d, where guided
    concat: Tensor | None = None  # b k h w
    more: Mapping[str, Any] = field(default_factory=dict)  # other arguments of the UNet, for all rows of a call

    @property
    def hidden(self) -> Tensor | None:
        return self.context if self.null is None else torch.cat([self.null, self.context])  # type: ignore[list-item]


@dataclass(frozen=True, slots=True)
class DiffusersModel:
    """Networks of diffusers, on their device and in their precision, and the config of the checkpoint's scheduler."""

    unet: Any
    vae: Any
    schedule: Mapping[str, Any]

    @torch.inference_mode()
    def denoise(self, z_t: Tensor, condition: Condition, steps: int, guidance_scale: float) -> Tensor:
        """Take b latents from noise to pictures' latents, one call of b or (guided) 2b rows a step."""
        scheduler = DDIMScheduler.from_config(dict(self.schedule))  # type: ignore[no-untyped-call]
        scheduler.set_timesteps(steps, device=z_t.device)
        guided, hidden = condition.null is not None, condition.hidden
        named = {} if hidden is None else {"encoder_hidden_states": hidden}
        for t in scheduler.timesteps:
            x = scheduler.scale_model_input(torch.cat([z_t] * 2) if guided else z_t, t)
            if condition.concat is not None:
                x = torch.cat([x, torch.cat([condition.concat] * 2) if guided else condition.concat], dim=1)
            out = self.unet(x, t, **named, **condition.more, return_dict=False)[0]
            if guided:
                away, towards = out.chunk(2)
                out = away + guidance_scale * (towards - away)
            z_t = scheduler.step(out, t, z_t, return_dict=False)[0]
        return z_t

    @torch.inference_mode()
    def decode(self, z: Tensor) -> list[Image.Image]:
        """Decode b latents."""
        z = z.to(self.vae.dtype) / self.vae.config.scaling_factor
        pictures = self.vae.decode(z, return_dict=False)[0]
        made: list[Image.Image] = VaeImageProcessor().postprocess(pictures, output_type="pil")
        return made
