"""What runs a model's UNet; everything that asks for a prediction calls it, and nothing else calls the UNet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.inputs import Inputs
from models.networks.adapters import RowAdapters, adapted
from models.networks.controlnet import RowControls
from models.networks.unet import UNet
from models.pipeline.captured import CapturedCalls


@dataclass(frozen=True, slots=True)
class Denoiser:
    """The UNet of one model on its device, in the precision of its weights.

    `captured` repeats calls of shapes that it knows; whatever a call carries beside tensors of `Inputs` goes to the
    UNet itself.
    """

    unet: UNet
    device: torch.device
    dtype: torch.dtype
    captured: CapturedCalls | None = None

    def __call__(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        inputs: Inputs,
        adapters: RowAdapters | None = None,
        controls: RowControls | None = None,
    ) -> Tensor:
        """Return the raw network output b c h w (eps, v or x0), float32, since guidance and samplers compute in it.

        z_t: b c h w; timesteps: b; inputs: a batch of b rows; adapters, controls: of those rows that have some.
        """
        given = inputs.to(self.device, self.dtype)
        x, t = z_t.to(self.device, self.dtype), timesteps.to(self.device)
        x = x if given.concat is None else torch.cat([x, given.concat], dim=1)  # b c+k h w
        network = self.unet if adapters is not None or self.captured is None else self.captured
        with adapted(self.unet, adapters):
            call = (x, t, given.context, given.labels, given.added, given.guidance_scale)
            out: Tensor = network(*call) if controls is None else self.unet(*call, controls.residuals(x, t, given))
        return out.to(torch.float32, copy=True)  # a captured call's output is overwritten by the next
