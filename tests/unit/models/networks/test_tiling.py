"""Tiled first stages equal untiled ones: no seam, whatever the tiles, attention and kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models
from models.checkpoints.load import load
from models.networks.autoencoder import Autoencoder, AutoencoderConfig
from models.networks.tiling import decode_tiled, encode_tiled
from models.pipeline.pipeline import TILE

SEAM = 2 * 2 / 255  # two grey levels, pictures lie in [−1, 1]
UPSCALE = Path(models.__file__).parent / "weights" / "emoji-upscale"


def _config(kind: str, attends: bool, levels: int) -> AutoencoderConfig:
    return AutoencoderConfig(
        kind="vq" if kind == "vq" else "kl",
        channels=(4, 8, 8, 8, 8)[:levels],
        stem=4,
        z_channels=3,
        embed_dim=3,
        res_blocks=1,
        attention=(*[False] * (levels - 1), attends),
        mid_attention=attends,
        norm_groups=2,
        codebook=16 if kind == "vq" else 0,
    )


def _first_stage(kind: str, attends: bool, levels: int = 3) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Autoencoder(_config(kind, attends, levels)).eval().requires_grad_(False)


def _texture(height: int, width: int) -> Tensor:
    """Noise on waves and steps: every tile has other statistics."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    waves = torch.stack([torch.sin(20 * x * y), torch.sign(x - y), x * torch.cos(9 * y)])[None]
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    return (waves + 0.3 * noise).clamp(-1, 1)


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("attends", [False, True])
@settings(deadline=None, max_examples=12)
@given(height=st.integers(1, 9), width=st.integers(1, 9), tile=st.integers(3, 40))
def test_any_size_and_tile(kind: str, attends: bool, height: int, width: int, tile: int) -> None:
    first_stage = _first_stage(kind, attends)
    x = _texture(4 * height, 4 * width)
    z = first_stage.encode(x)
    torch.testing.assert_close(encode_tiled(first_stage, x, tile), z, atol=1e-4, rtol=0)
    torch.testing.assert_close(decode_tiled(first_stage, z, tile), first_stage.decode(z), atol=1e-4, rtol=0)


def test_a_posterior_sample_takes_its_noise() -> None:
    first_stage, x, noise = _first_stage("kl", False), _texture(24, 24), torch.ones(1, 3, 6, 6)
    torch.testing.assert_close(encode_tiled(first_stage, x, 8, noise), first_stage.encode(x, noise), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "attends", "levels"), [("kl", False, 3), ("vq", False, 3), ("kl", True, 5)])
def test_no_seams_in_a_textured_picture_of_1024_in_nine_tiles(kind: str, attends: bool, levels: int) -> None:
    first_stage, x = _first_stage(kind, attends, levels), _texture(1024, 1024)
    z = first_stage.encode(x)
    assert float((encode_tiled(first_stage, x, 342) - z).abs().max()) < SEAM
    assert float((decode_tiled(first_stage, z, 342) - first_stage.decode(z)).abs().max()) < SEAM


def test_the_pipeline_tiles_large_pictures_of_the_default_upscaler() -> None:
    model = load(UPSCALE)
    x = _texture(TILE + 64, 64)
    z = model.encode_images(x)
    torch.testing.assert_close(z, model.first_stage.encode(x), atol=1e-3, rtol=0)
    difference = model.decode(z) - model.first_stage.decode(z)
    assert float(difference.abs().max()) < SEAM
