"""First stages in diffusers' key layout without their config.json: a file out of a folder, read off keys and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from models.checkpoints.build import State
from models.checkpoints.files.rename import DIFFUSERS, renamed
from models.checkpoints.layouts.diffusers.config import Json, autoencoder_config
from models.networks.autoencoder import AutoencoderConfig

TELLING = "encoder.down_blocks.0.resnets.0.conv1.weight"


def read_without_config(state: Mapping[str, Tensor]) -> tuple[AutoencoderConfig, State]:
    """Read config and weights under our names; norms have 32 groups, which no shape tells.

    Raises:
        LookupError: naming a missing key.
    """
    return autoencoder_config(_config(state)), renamed(state, DIFFUSERS)


def _config(state: Mapping[str, Tensor]) -> Json:
    levels = range(_count(state, r"^encoder\.down_blocks\.(\d+)\."))
    attends = [f"encoder.down_blocks.{i}.attentions.0.group_norm.weight" in state for i in levels]
    config: Json = {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [len(state[f"encoder.down_blocks.{i}.resnets.0.conv2.bias"]) for i in levels],
        "layers_per_block": _count(state, r"^encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "down_block_types": [("Attn" if attend else "") + "DownEncoderBlock2D" for attend in attends],
        "up_block_types": [("Attn" if attend else "") + "UpDecoderBlock2D" for attend in reversed(attends)],
        "mid_block_add_attention": "encoder.mid_block.attentions.0.group_norm.weight" in state,
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": len(state["decoder.conv_out.weight"]),
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
    }
    if (codebook := state.get("quantize.embedding.weight")) is not None:
        codes, width = codebook.shape
        config |= {"_class_name": "VQModel", "num_vq_embeddings": codes, "vq_embed_dim": width}
    return config


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)
