"""The models that `latentd bench engine` measures: a table, one entry each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.settings import Settings
from latentd.bench.random_model import random_checkpoint, stand_in_text, tiny
from models.checkpoints.card import load_as_set
from models.checkpoints.checkpoint import Checkpoint
from models.networks.autoencoder import AutoencoderConfig
from models.networks.unet import UNetConfig
from models.pipeline.config import ModelConfig
from models.schedule import ScheduleConfig
from workers.library.catalogue import find_cards

TINY_SIDE = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """A model at the size that it was trained for; `steps` and `guidance_scale` are what people ask of it."""

    name: str
    side: int  # pixels
    steps: int
    guidance_scale: float
    read: Callable[[Settings, str], Checkpoint]  # weights of a file, or random ones on a device

    def smallest(self, settings: Settings, device: str) -> tuple[Checkpoint, int]:
        """Return the same layers with a few channels, and a small side: to see that the bench runs."""
        return random_checkpoint(tiny(self.read(settings, "meta").config), device), TINY_SIDE


def _of_file(model: str) -> Callable[[Settings, str], Checkpoint]:
    return lambda settings, _device: load_as_set(find_cards(settings.models_dir)[model][1])


def _random(config: ModelConfig) -> Callable[[Settings, str], Checkpoint]:
    return lambda _settings, device: random_checkpoint(config, device)


def text_unet(context_dim: int) -> UNetConfig:
    """The UNet of Stable Diffusion 1 (768) and of LDM's text2img-large (1280), 860 and 872 million parameters."""
    return UNetConfig(
        in_channels=4,
        out_channels=4,
        channels=(320, 640, 1280, 1280),
        res_blocks=2,
        attention=(True, True, True, False),
        heads=(8, 8, 8, 8),
        mid_heads=8,
        context_dim=context_dim,
        depth=(1, 1, 1, 1),
        only_cross_attention=(False,) * 4,
        res_down=(False,) * 4,
        res_up=(False,) * 4,
    )


KL_F8 = AutoencoderConfig(
    kind="kl",
    channels=(128, 256, 512, 512),
    stem=128,
    z_channels=4,
    embed_dim=4,
    res_blocks=2,
    attention=(False,) * 4,
)


def text_model(context_dim: int, latent_size: int) -> ModelConfig:
    """A text-to-image model over the KL first stage with f = 8."""
    return ModelConfig(
        unet=text_unet(context_dim),
        first_stage=KL_F8,
        schedule=ScheduleConfig(),
        scale_factor=0.18215,
        conditioner=stand_in_text(context_dim),
        latent_size=latent_size,
    )


# The UNet of Stable Diffusion XL, 2567 million parameters: no attention at the latent's resolution.
XL_UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    channels=(320, 640, 1280),
    res_blocks=2,
    attention=(False, True, True),
    heads=(5, 10, 20),
    mid_heads=20,
    context_dim=2048,
    depth=(1, 2, 10),
    mid_depth=10,
    only_cross_attention=(False,) * 3,
    linear_projection=True,
    added_dim=2816,
    res_down=(False,) * 3,
    res_up=(False,) * 3,
)
XL = ModelConfig(
    unet=XL_UNET,
    first_stage=KL_F8,
    schedule=ScheduleConfig(),
    scale_factor=0.13025,
    conditioner=stand_in_text(768, 1280, pooled=1280),
    zeros_for_no_prompt=True,
    latent_size=128,
)


_ALL = (
    Shape("emoji", 256, 12, 4.0, _of_file("emoji")),
    Shape("sd15", 512, 50, 7.5, _random(text_model(768, 64))),
    Shape("sdxl", 1024, 30, 5.0, _random(XL)),
    Shape("ldm-text-large", 256, 50, 5.0, _random(text_model(1280, 32))),
)
SHAPES: Mapping[str, Shape] = {shape.name: shape for shape in _ALL}
