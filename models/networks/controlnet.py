"""ControlNet (Zhang et al. 2023): a copy of the UNet's way down that reads a picture, and adds to what goes across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.inputs import Inputs
from models.networks.layers import Conv2d
from models.networks.unet import Residuals, UNetConfig, UNetMiddle, UNetTrunk

PICTURE = 3  # channels: red, green, blue


@dataclass(frozen=True, slots=True)
class ControlNetConfig:
    """Shape of a ControlNet: its UNet's, and the widths that its picture passes on the way to the latent's size."""

    unet: UNetConfig
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)
    mid_res_blocks: int = 2

    @property
    def factor(self) -> int:
        """Pixels of the picture per latent pixel."""
        return int(2 ** (len(self.hint_widths) - 1))


class HintEmbedding(nn.Module):
    """Convolutions from the picture to the latent's size, halving it between widths."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        widths = config.hint_widths
        self.conv_in = Conv2d(PICTURE, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for a, b in pairwise(widths):
            self.blocks.extend([Conv2d(a, a, 3, padding=1), Conv2d(a, b, 3, padding=1, stride=2)])
        self.conv_out = Conv2d(widths[-1], config.unet.channels[0], 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        h = F.silu(self.conv_in(picture))  # b c H W
        for block in self.blocks:
            h = F.silu(block(h))
        return self.conv_out(h)  # type: ignore[no-any-return]  # b c h w


class ControlNet(UNetTrunk):
    """Computes residuals of every row; the picture is embedded once, not at every step."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config.unet)
        self.mid_block = UNetMiddle(config.unet, config.mid_res_blocks)
        self.controlnet_cond_embedding = HintEmbedding(config)
        self.controlnet_down_blocks = nn.ModuleList(Conv2d(c, c, 1) for c in self.skip_channels)
        self.controlnet_mid_block = Conv2d(config.unet.channels[-1], config.unet.channels[-1], 1)

    def embed(self, picture: Tensor) -> Tensor:
        """Embed a picture, b 3 H W in [0, 1], to b c h w."""
        return self.controlnet_cond_embedding(picture)  # type: ignore[no-any-return]

    def forward(
        self, z_t: Tensor, timesteps: Tensor, context: Tensor | None, added: Tensor | None, hint: Tensor
    ) -> list[Tensor]:
        """Return what is added to each tensor that goes across, then to the middle's output, b c h w each.

        z_t: b c h w; timesteps: b; context: b n d; added: b p, where the config has `added_dim`; hint: b c h w.
        """
        emb = self._embedding(z_t, timesteps, None, added, None)  # b 4c
        h, skips = self._down(self.conv_in(z_t) + hint, emb, context)
        h = self.mid_block(h, emb, context)
        across = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return [*across, self.controlnet_mid_block(h)]


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """A ControlNet that has read its picture, and how much of it a row gets."""

    network: ControlNet
    hint: Tensor  # c h w
    scale: float
    start: float = 0.0  # parts of the steps between which it acts
    end: float = 1.0

    def acts(self, step: int, steps: int) -> bool:
        """Tell whether it acts in step number `step`, from 0, of `steps`."""
        return step / steps >= self.start and (step + 1) / steps <= self.end


@dataclass(frozen=True, slots=True)
class RowControls:
    """What each row of a call has; an empty one pays for none. `apart`: no row is computed together with another, so
    that its bits don't depend on them.
    """

    rows: Sequence[Sequence[Control]]
    apart: bool

    def residuals(self, z_t: Tensor, timesteps: Tensor, inputs: Inputs) -> list[Residuals]:
        """Run the networks over the rows that have them: z_t b c h w, timesteps b, inputs of b rows."""
        return [_residuals(rows, controls, z_t, timesteps, inputs) for rows, controls in self._calls()]

    def _calls(self) -> list[tuple[list[int], list[Control]]]:
        """Group rows by network, each row once in a group; a row's controls stay in their order."""
        groups: dict[object, tuple[list[int], list[Control]]] = {}
        for row, controls in enumerate(self.rows):
            for place, control in enumerate(controls):
                key = (row, place) if self.apart else (place, id(control.network))
                rows, members = groups.setdefault(key, ([], []))
                rows.append(row)
                members.append(control)
        return list(groups.values())


def _residuals(
    rows: Sequence[int], controls: Sequence[Control], z_t: Tensor, timesteps: Tensor, inputs: Inputs
) -> Residuals:
    index = torch.tensor(rows, device=z_t.device)  # b'
    context = None if inputs.context is None else inputs.context[index]
    added = None if inputs.added is None else inputs.added[index]
    hint = torch.stack([control.hint for control in controls])  # b' c h w
    found = controls[0].network(z_t[index], timesteps[index], context, added, hint)
    scales = torch.tensor([control.scale for control in controls], device=z_t.device, dtype=z_t.dtype)
    *across, middle = [part * scales[:, None, None, None] for part in found]
    return Residuals(index, across, middle)
