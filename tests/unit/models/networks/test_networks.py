"""Random tiny networks of every architecture: ours computes what diffusers' and transformers' compute."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from core.errors import CheckpointError
from models.checkpoints.build import build
from models.checkpoints.files.rename import DIFFUSERS, renamed
from models.checkpoints.layouts.diffusers.config import autoencoder_config, tower_config, unet_config
from models.checkpoints.layouts.diffusers.reader import TEXT_RENAMES
from models.checkpoints.towers import together
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import TextEncoder, TextTower
from models.networks.make import make_conditioner
from models.networks.unet import UNet

CROSS = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
ALL_CROSS = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
PLAIN = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
CONDITIONAL: dict[str, dict[str, Any]] = {
    "sd1": {"blocks": ALL_CROSS, "attention_head_dim": 4},
    "sd2": {"blocks": CROSS, "attention_head_dim": [2, 4], "use_linear_projection": True},
    "inpaint": {"blocks": CROSS, "in_channels": 9, "layers_per_block": 2},
    "deep": {"blocks": ALL_CROSS, "transformer_layers_per_block": [1, 2], "norm_num_groups": 8},
    "x4": {"blocks": ALL_CROSS, "in_channels": 7, "num_class_embeds": 20, "only_cross_attention": [True, False]},
    "only_cross": {"blocks": CROSS, "only_cross_attention": True},
}
RESNET = ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "ResnetUpsampleBlock2D")
UNCONDITIONAL: dict[str, dict[str, Any]] = {
    "ldm": {"blocks": PLAIN, "attention_head_dim": 8},
    "churches": {
        "blocks": RESNET,
        "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "churches_normed": {"blocks": RESNET, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 16},
    "mixed": {"blocks": PLAIN, "downsample_type": "resnet", "upsample_type": "resnet"},
    "no_attention": {"blocks": (("DownBlock2D",) * 2, ("UpBlock2D",) * 2), "add_attention": False},
    "labels": {"blocks": PLAIN, "num_class_embeds": 10, "layers_per_block": 2, "attention_head_dim": 16},
}
KL: dict[str, dict[str, Any]] = {
    "f1": {"widths": [16]},
    "f4": {"widths": [16, 32, 16], "attention": [False, False, True]},
    "f32": {"widths": [8] * 6, "mid_block_add_attention": False},
    "two_blocks": {"widths": [16, 16], "layers_per_block": 2, "attention": [True, True], "latent_channels": 16},
}


def _randomise(module: nn.Module) -> Any:
    """Also what starts at zero or one, so that no term is hidden."""
    generator = torch.Generator().manual_seed(0)
    for value in module.parameters():
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return module.eval().requires_grad_(False)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-4 * float(theirs.abs().max()), rtol=0)


def _their_unet(cls: Any, options: dict[str, Any]) -> Any:
    options = {"in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 16, **options}
    down, up = options.pop("blocks")
    return _randomise(cls(block_out_channels=(16, 32), down_block_types=down, up_block_types=up, **options))


def _ours(theirs: Any) -> UNet:
    config = unet_config({**theirs.config, "_class_name": type(theirs).__name__})
    return build(lambda: UNet(config), renamed(theirs.state_dict(), DIFFUSERS), "unet", "cpu", torch.float32)


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_conditional_unet(name: str, size: tuple[int, int]) -> None:
    theirs = _their_unet(diffusers.UNet2DConditionModel, {"cross_attention_dim": 12, **CONDITIONAL[name]})
    z, context, t = _noise(2, theirs.config.in_channels, *size), _noise(2, 5, 12), torch.tensor([3, 900])
    labels = torch.tensor([1, 7]) if theirs.config.num_class_embeds else None
    _close(_ours(theirs)(z, t, context, labels), theirs(z, t, context, class_labels=labels).sample)


@pytest.mark.parametrize("name", UNCONDITIONAL)
def test_unconditional_unet(name: str) -> None:
    theirs = _their_unet(diffusers.UNet2DModel, UNCONDITIONAL[name])
    z, t = _noise(2, 4, 8, 12), torch.tensor([3, 900])
    labels = torch.tensor([1, 7]) if theirs.config.num_class_embeds else None
    _close(_ours(theirs)(z, t, None, labels), theirs(z, t, class_labels=labels).sample)


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("name", KL)
def test_first_stage(name: str, kind: str) -> None:
    options = {"latent_channels": 3, "layers_per_block": 1, "norm_num_groups": 8, **KL[name]}
    widths = options.pop("widths")
    attention = options.pop("attention", [False] * len(widths))
    down = ["AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attention]
    up = ["AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attention)]
    cls: Any = diffusers.AutoencoderKL if kind == "kl" else diffusers.VQModel
    theirs = _randomise(cls(block_out_channels=widths, down_block_types=down, up_block_types=up, **options))
    config = autoencoder_config({**theirs.config, "_class_name": cls.__name__})
    state = renamed(theirs.state_dict(), DIFFUSERS)
    ours = build(lambda: Autoencoder(config), state, "first stage", "cpu", torch.float32)
    x = _noise(1, 3, 2 * config.factor, 3 * config.factor)
    z = ours.encode(x)
    _close(z, theirs.encode(x).latent_dist.mode() if kind == "kl" else theirs.encode(x).latents)
    _close(ours.decode(z), theirs.decode(z).sample)


@pytest.mark.parametrize("masked", [False, True])
def test_bert(masked: bool) -> None:
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    theirs = _randomise(BertModel(BertConfig(vocab_size=30, max_position_embeddings=9, **shape)))
    ours = _text({**theirs.config.to_dict(), "use_attention_mask": masked}, theirs.state_dict())
    ids, mask = torch.arange(14).view(2, 7), torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])
    expected = theirs(ids, attention_mask=mask if masked else None).last_hidden_state
    _close(ours(ids, mask).context, expected)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip(activation: str) -> None:
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    config = CLIPTextConfig(vocab_size=30, max_position_embeddings=9, hidden_act=activation, **shape)
    theirs = _randomise(CLIPTextModel(config))
    ids = torch.arange(14).view(2, 7)
    _close(_text(config.to_dict(), theirs.state_dict())(ids).context, theirs(ids).last_hidden_state)


def _text(config: dict[str, Any], state: dict[str, Tensor]) -> TextTower:
    tower = tower_config(config)
    text, names = together([(tower, renamed(state, *TEXT_RENAMES[tower.kind]))])
    module = build(lambda: make_conditioner(text), names, "text encoder", "cpu", torch.float32)
    assert isinstance(module, TextEncoder)
    (made,) = module.towers
    assert isinstance(made, TextTower)
    return made


def test_an_option_we_do_not_compute_is_refused_by_name() -> None:
    config = {"in_channels": 4, "out_channels": 4, "block_out_channels": [32], "down_block_types": ["DownBlock2D"]}
    with pytest.raises(CheckpointError, match="time_embedding_type is 'fourier'"):
        unet_config({**config, "up_block_types": ["UpBlock2D"], "time_embedding_type": "fourier"})
    with pytest.raises(CheckpointError, match="unknown block type 'KDownBlock2D'"):
        unet_config({**config, "up_block_types": ["UpBlock2D"], "down_block_types": ["KDownBlock2D"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [("missing", "lacks conv_in.weight"), ("extra", "no place for other"), ("shape", r"shape \[1\], expected \[16\]")],
)
def test_wrong_keys_are_named(change: str, message: str) -> None:
    theirs = _their_unet(diffusers.UNet2DModel, UNCONDITIONAL["ldm"])
    config = unet_config({**theirs.config, "_class_name": "UNet2DModel"})
    state = renamed(theirs.state_dict(), DIFFUSERS)
    if change == "missing":
        del state["conv_in.weight"]
    state |= {"extra": {"other": torch.zeros(1)}, "shape": {"conv_in.bias": torch.zeros(1)}}.get(change, {})
    with pytest.raises(CheckpointError, match=message):
        build(lambda: UNet(config), state, "unet", "cpu", torch.float32)
