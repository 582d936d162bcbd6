"""Options of checkpoints that the committed cases don't have, against diffusers or by what the originals' code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import build
from models.checkpoints.files.rename import DIFFUSERS, renamed
from models.checkpoints.files.weights import read_json, read_weights
from models.checkpoints.layouts.compvis.conditioner import read_conditioner
from models.checkpoints.layouts.compvis.unet import head_count, read_unet
from models.checkpoints.layouts.diffusers.config import autoencoder_config, unet_config
from models.checkpoints.layouts.diffusers.config_writer import unet_json
from models.checkpoints.layouts.diffusers.reader import _concat
from models.networks.attention import SelfAttention
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import RescalerConfig, SpatialRescaler
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from tests.unit.models.checkpoints import compvis_keys as keys

RESAMPLE = re.compile(r"blocks\.\d+\.\d\.(op|conv)\.")
BASE: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
CROSS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
ATTN = {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2}
UNETS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "depth_by_level": (
        diffusers.UNet2DConditionModel,
        CROSS | {"cross_attention_dim": 12, "transformer_layers_per_block": [1, 2], "attention_head_dim": [2, 4]},
    ),
    "scale_shift_and_noise_levels": (
        diffusers.UNet2DConditionModel,
        CROSS
        | {"cross_attention_dim": 12, "attention_head_dim": 2, "num_class_embeds": 9, "in_channels": 7}
        | {"resnet_time_scale_shift": "scale_shift", "only_cross_attention": [True, False]},
    ),
    "residual_resampling": (
        diffusers.UNet2DModel,
        ATTN | {"downsample_type": "resnet", "upsample_type": "resnet", "attention_head_dim": None},
    ),
    "mid_without_attention": (diffusers.UNet2DModel, ATTN | {"add_attention": False, "attention_head_dim": 4}),
}


def saved(model: Any, folder: Path, **how: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and renamed weights of what diffusers writes."""
    model.save_pretrained(folder, **how)
    return read_json(folder / "config.json"), renamed(read_weights(folder), DIFFUSERS)


@pytest.mark.parametrize("name", UNETS)
def test_unets_of_many_options_equal_diffusers(name: str, tmp_path: Path) -> None:
    kind, options = UNETS[name]
    torch.manual_seed(1)
    theirs = kind(**BASE, **options).eval()
    config, state = saved(theirs, tmp_path, max_shard_size="30KB")
    ours = build(lambda: UNet(unet_config(config)), state, "unet", "cpu", torch.float32)
    x, t, context = torch.randn(2, theirs.config["in_channels"], 8, 12), torch.tensor([7, 901]), torch.randn(2, 5, 12)
    labels = torch.tensor([0, 8]) if "num_class_embeds" in options else None
    call = {"encoder_hidden_states": context} if "cross_attention_dim" in options else {}
    with torch.inference_mode():
        expected = theirs(x, t, class_labels=labels, **call).sample
        torch.testing.assert_close(ours(x, t, context, labels), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 6])
def test_first_stages_of_any_factor_equal_diffusers(levels: int, tmp_path: Path) -> None:
    torch.manual_seed(2)
    blocks = {"block_out_channels": (8,) * levels, "norm_num_groups": 4, "latent_channels": 3, "vq_embed_dim": 5}
    down = ("DownEncoderBlock2D",) * (levels - 1) + ("AttnDownEncoderBlock2D",)
    up = ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * (levels - 1)
    kind: Any = diffusers.VQModel
    theirs = kind(down_block_types=down, up_block_types=up, num_vq_embeddings=7, **blocks).eval()
    config, state = saved(theirs, tmp_path, variant="fp16", safe_serialization=False)
    ours = build(lambda: Autoencoder(autoencoder_config(config)), state, "first stage", "cpu", torch.float32)
    x = torch.randn(1, 3, 32, 64)
    with torch.inference_mode():
        z = theirs.encode(x).latents
        torch.testing.assert_close(ours.encode(x), z, atol=1e-5, rtol=1e-4)
        # A new codebook is all but constant; the norms after it enlarge rounding.
        torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("pipeline", "kind"),
    [("StableDiffusionInpaintPipeline", "mask-latent"), ("LDMSuperResolutionPipeline", "low-res")],
)
def test_three_more_channels_than_a_two_channel_latent_are_told_by_the_pipeline(pipeline: str, kind: str) -> None:
    assert _concat({"in_channels": 5, "out_channels": 2}, {"latent_channels": 2}, pipeline) == kind


def test_levels_without_attention_may_be_narrower_than_a_head() -> None:
    params = {**keys.SR_UNET, "model_channels": 32, "attention_resolutions": [2], "channel_mult": [1, 2]}
    state = {key: torch.zeros(shape) for key, shape in keys.unet_shapes(params).items()}
    config, weights = read_unet(state, {"num_head_channels": 64})
    assert config.attention == (False, True)
    assert config.heads[1] == config.mid_heads == 1
    module = build(lambda: UNet(config), weights, "unet", "cpu", torch.float32)
    assert all(layer.heads == 1 for layer in module.modules() if isinstance(layer, SelfAttention))
    assert head_count({"num_head_channels": 32}, 96) == 3


def test_rescalers_halve_once_unless_told_and_may_keep_the_channels() -> None:
    once = read_conditioner({"channel_mapper.weight": torch.zeros(2, 4, 1, 1)}, {"in_channels": 4}, 5, None)
    assert once is not None
    assert isinstance(once[0], RescalerConfig)
    assert once[0].stages == 1
    kept = read_conditioner({}, {"n_stages": 2, "in_channels": 4}, 5, None)
    assert kept is not None
    module = make_conditioner(kept[0])
    assert isinstance(module, SpatialRescaler)
    assert module(torch.ones(1, 4, 8, 12)).shape == (1, 4, 2, 3)


POOLED = {**keys.SR_UNET, "model_channels": 32, "channel_mult": [1, 1, 2], "num_res_blocks": 1, "num_head_channels": 8}


def test_levels_without_convolutions_are_means_and_nearest_neighbours() -> None:
    """Written out as convolutions: [0 ½ ½] of stride 2 is the mean of two pixels, the unit kernel changes nothing."""
    torch.manual_seed(3)
    whole = {key: 0.1 * torch.randn(shape) for key, shape in keys.unet_shapes(POOLED).items()}
    bare = {key: value for key, value in whole.items() if not RESAMPLE.search(key)}
    assert len(bare) == len(whole) - 2 * 2 * 2
    for key, value in whole.items():
        if RESAMPLE.search(key):
            whole[key] = torch.zeros_like(value)
        if key.endswith(".op.weight"):
            whole[key][range(len(value)), range(len(value)), 1:, 1:] = 0.25
        elif key.endswith(".conv.weight"):
            whole[key][range(len(value)), range(len(value)), 1, 1] = 1.0
    config, weights = read_unet(bare, {**POOLED, "conv_resample": False})
    assert (config.conv_resample, config.channels) == (False, (32, 32, 64))
    ours = build(lambda: UNet(config), weights, "unet", "cpu", torch.float32)
    written_out = read_unet(whole, POOLED)
    theirs = build(lambda: UNet(written_out[0]), written_out[1], "unet", "cpu", torch.float32)
    x, t = torch.randn(2, POOLED["in_channels"], 8, 12), torch.tensor([7, 901])
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, t), theirs(x, t), atol=1e-5, rtol=1e-4)
        assert ours(torch.randn(1, POOLED["in_channels"], 7, 9), t[:1]).shape[2:] == (7, 9)
    with pytest.raises(CheckpointError, match="conv_resample: false"):
        unet_json(config, 8)


def test_what_lacks_its_resampling_is_damaged_unless_the_config_says_so() -> None:
    whole = {key: torch.zeros(shape) for key, shape in keys.unet_shapes(POOLED).items()}
    bare = {key: value for key, value in whole.items() if not RESAMPLE.search(key)}
    with pytest.raises(CheckpointError, match=r"lacks input_blocks\.2\.0\.op\.weight"):
        read_unet(bare, POOLED)
