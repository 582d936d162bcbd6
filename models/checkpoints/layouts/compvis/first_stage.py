"""First stages in CompVis's key layout, embedded in a model or alone: everything is read off the keys and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State
from models.checkpoints.files.rename import COMPVIS_FIRST_STAGE, renamed
from models.checkpoints.layouts.compvis.families import NORM_GROUPS
from models.networks.autoencoder import AutoencoderConfig

IGNORED = re.compile(r"^(loss|model_ema)\.|^(colorize|global_step)$")  # discriminator, perceptual network, EMA copy


def read_first_stage(state: Mapping[str, Tensor]) -> tuple[AutoencoderConfig, State]:
    """Read config and weights under our names, from keys without a prefix.

    Raises:
        CheckpointError: naming a missing key.
    """
    state = {key: value for key, value in state.items() if not IGNORED.search(key)}
    for key in ("encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight", "quant_conv.weight"):
        if key not in state:
            raise CheckpointError(f"first stage: lacks {key}", field=key)
    config = _config(state)
    levels = len(config.channels)
    # The original counts the decoder's levels from full resolution, we count them in order of computation.
    turned = {_turned(key, levels): value for key, value in state.items()}
    return config, renamed(turned, COMPVIS_FIRST_STAGE)


def _config(state: Mapping[str, Tensor]) -> AutoencoderConfig:
    levels = _count(state, r"^encoder\.down\.(\d+)\.")
    channels = tuple(len(state[f"encoder.down.{i}.block.0.conv2.bias"]) for i in range(levels))
    codebook = state.get("quantize.embedding.weight")
    return AutoencoderConfig(
        kind="kl" if codebook is None else "vq",
        channels=channels,
        stem=len(state["encoder.conv_in.weight"]),
        z_channels=state["decoder.conv_in.weight"].shape[1],
        embed_dim=state["post_quant_conv.weight"].shape[1],
        res_blocks=_count(state, r"^encoder\.down\.0\.block\.(\d+)\."),
        attention=tuple(_has(state, f"encoder.down.{i}.attn.0.") for i in range(levels)),
        mid_attention=_has(state, "encoder.mid.attn_1."),
        norm_groups=NORM_GROUPS,
        in_channels=state["encoder.conv_in.weight"].shape[1],
        out_channels=len(state["decoder.conv_out.weight"]),
        codebook=0 if codebook is None else len(codebook),
    )


def _has(state: Mapping[str, Tensor], beginning: str) -> bool:
    return any(key.startswith(beginning) for key in state)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return 1 + max(numbers, default=-1)


def _turned(key: str, levels: int) -> str:
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", key)
