"""The paper's models of its throughput tables, by its hyper-parameters (App. E, Tab. 8, 15), with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from contract.base import Kind
from latentd.bench.random_model import loaded, random_checkpoint, tiny
from models.networks.autoencoder import Autoencoder, AutoencoderConfig
from models.networks.unet import UNetConfig
from models.pipeline.config import ModelConfig
from models.pipeline.pipeline import LatentDiffusion
from models.schedule import ScheduleConfig

KL_F4 = AutoencoderConfig(
    kind="kl", channels=(128, 256, 512), stem=128, z_channels=3, embed_dim=3, res_blocks=2, attention=(False,) * 3
)
VQ_F4 = replace(KL_F4, kind="vq", codebook=8192)
VQ_F4_NO_ATTENTION = replace(VQ_F4, mid_attention=False)
# Of a model over pixels, whose "latents" are the picture: one level, and never run.
PIXELS = AutoencoderConfig(
    kind="vq",
    channels=(32,),
    stem=32,
    z_channels=3,
    embed_dim=3,
    res_blocks=1,
    attention=(False,),
    mid_attention=False,
    codebook=1,
)

# 215 million parameters: z_t, the masked picture and the mask, 3 + 3 + 1 channels.
INPAINTING = UNetConfig(
    in_channels=7,
    out_channels=3,
    channels=(128, 512, 1024),
    res_blocks=2,
    attention=(False,) * 3,
    heads=(8,) * 3,
    mid_heads=8,
)
# The paper doesn't give LDM-1's, but "the same parameter count": levels down to the same 16×16, 221 million.
INPAINTING_PIXELS = replace(INPAINTING, channels=(128, 128, 128, 512, 1024), attention=(False,) * 5, heads=(8,) * 5)
# 114 million, 169 with the first stage (Tab. 5).
SUPER_RESOLUTION = UNetConfig(
    in_channels=6,
    out_channels=3,
    channels=(160, 320, 320, 640),
    res_blocks=2,
    attention=(False, False, False, True),
    heads=(5, 10, 10, 20),
    mid_heads=20,
)


MODEL = "paper"  # id of whichever is loaded


class NoFirstStage(Autoencoder):
    """E and D of a model over pixels: nothing is done."""

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return x

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:  # noqa: ARG002
        return z


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of one of the paper's tables: `samples_s` is its figure on its `card`; `side` is in pixels."""

    table: str
    model: str
    side: int
    steps: int
    samples_s: float
    config: ModelConfig
    kind: Kind = "inpaint"
    card: str = "A100"

    @property
    def name(self) -> str:
        return f"{self.model} @{self.side}"

    def load(self, device: str, dtype: torch.dtype, *, small: bool) -> LatentDiffusion:
        """Make it; `small`: the same layers, a few channels wide."""
        config = tiny(self.config) if small else self.config
        model = loaded(random_checkpoint(config, device), MODEL, device, dtype)
        if self.config.first_stage is PIXELS:
            return replace(model, first_stage=NoFirstStage(config.first_stage))
        return model


def _inpainting(first_stage: AutoencoderConfig, size: int) -> ModelConfig:
    schedule = ScheduleConfig(beta_start=0.0015, beta_end=0.0205)
    unet = INPAINTING_PIXELS if first_stage is PIXELS else INPAINTING
    return ModelConfig(unet, first_stage, schedule, 1.0, concat="latent-mask", latent_size=size)


def _enlarging() -> ModelConfig:
    schedule = ScheduleConfig(beta_start=0.0015, beta_end=0.0155)
    return ModelConfig(SUPER_RESOLUTION, VQ_F4, schedule, 1.0, concat="low-res", latent_size=64)


INPAINTING_STEPS = 100  # assumed: the paper doesn't say it of Tab. 6
# First stage, and samples/s at 256 and 512 pixels.
_TAB_6: Mapping[str, tuple[AutoencoderConfig, float, float]] = {
    "LDM-1 (no first stage)": (PIXELS, 0.26, 0.07),
    "LDM-4 (KL, w/ attn)": (KL_F4, 0.97, 0.34),
    "LDM-4 (VQ, w/ attn)": (VQ_F4, 0.97, 0.34),
    "LDM-4 (VQ, w/o attn)": (VQ_F4_NO_ATTENTION, 0.99, 0.36),
}
ENTRIES: tuple[Entry, ...] = (
    *(
        Entry("Tab. 6", name, side, INPAINTING_STEPS, speed, _inpainting(first_stage, side // first_stage.factor))
        for side, place in ((256, 0), (512, 1))
        for name, (first_stage, *speeds) in _TAB_6.items()
        for speed in (speeds[place],)
    ),
    Entry("Tab. 5", "LDM-4 SR", 256, 100, 4.62, _enlarging(), "upscale"),
)
BASELINE = "LDM-1 (no first stage)"
