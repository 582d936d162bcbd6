"""What runs a model's UNet; everything that asks for a prediction calls it, and nothing else calls the UNet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.inputs import Inputs
from models.networks.adapters import RowAdapters, adapted
from models.networks.unet import UNet


@dataclass(frozen=True, slots=True)
class Denoiser:
    """The UNet of one model on its device, in the precision of its weights."""

    unet: UNet
    device: torch.device
    dtype: torch.dtype

    def __call__(self, z_t: Tensor, timesteps: Tensor, inputs: Inputs, adapters: RowAdapters | None = None) -> Tensor:
        """Return the raw network output b c h w (eps, v or x0), float32, since guidance and samplers compute in it.

        z_t: b c h w; timesteps: b; inputs: a batch of b rows; adapters: of those that have one.
        """
        given = inputs.to(self.device, self.dtype)
        x = z_t.to(self.device, self.dtype)
        x = x if given.concat is None else torch.cat([x, given.concat], dim=1)  # b c+k h w
        with adapted(self.unet, adapters):
            out: Tensor = self.unet(x, timesteps.to(self.device), given.context, given.labels, given.added)
        return out.float()
