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


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """The UNet of one model on its device, in the precision of its weights.

    `captured` repeats calls of shapes that it knows; whatever a call carries beside tensors of `Inputs` goes to the
    UNet itself.
    """

    unet: UNet
    device: torch.device
    dtype: torch.dtype
    captured: CapturedCalls | None = None

    def settle(self) -> None:
        """Wait until calls run as they will from now on: until what is being fused is there."""
        if self.captured is not None and self.captured.fused is not None:
            self.captured.fused.wait()

    def __call__(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        inputs: Inputs,
        adapters: RowAdapters | None = None,
        controls: RowControls | None = None,
        *,
        exact: bool = False,
    ) -> Tensor:
        """Return the raw network output b c h w (eps, v or x0), float32, since guidance and samplers compute in it.

        z_t: b c h w; timesteps: b; inputs: a batch of b rows; adapters, controls: of those rows that have some;
        exact: with the same kernels at all times, however much faster others are.
        """
        given = inputs.to(self.device, self.dtype)
        z, t = z_t.to(self.device, self.dtype), timesteps.to(self.device)
        x = z if given.concat is None else torch.cat([z, given.concat], dim=1)  # b c+k h w
        call = (x, t, given.context, given.labels, given.added, given.guidance_scale)
        if self.captured is not None and adapters is None and controls is None:
            out: Tensor = self.captured(*call, exact=exact)
        else:
            with adapted(self.unet, adapters):
                out = self.unet(*call, () if controls is None else controls.residuals(z, t, given))
        return out.to(torch.float32, copy=True)  # a captured call's output is overwritten by the next
