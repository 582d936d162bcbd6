"""UNets in CompVis's key layout: the architecture is read off the keys and shapes, head counts from the config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State
from models.checkpoints.files.rename import COMPVIS_RESBLOCK, DIFFUSERS, renamed
from models.checkpoints.layouts.compvis.families import NORM_GROUPS
from models.networks.unet import UNetConfig

Params = Mapping[str, Any]
SUBMODULE = re.compile(
    r"^((?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+|time_embed\.\d|out\.\d|label_emb(?:\.0\.\d)?)\."
)
ATTENTION_BLOCK = {"norm": "group_norm", "qkv": "attention.to_qkv", "proj_out": "attention.to_out"}
TRUNK = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "label_emb": "class_embedding",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}


ADDED = "label_emb.0.0.weight"  # of the projection of SDXL's pooled text and sizes


@dataclass(frozen=True, slots=True)
class Layout:
    """Where levels begin: every level has `res_blocks` blocks down and one more up."""

    levels: int
    res_blocks: int
    conv_resample: bool  # else no key tells of what halves and doubles: an input block is missing

    def down(self, level: int, block: int) -> str:
        return f"input_blocks.{1 + level * (self.res_blocks + 1) + block}"

    def up(self, level: int, block: int) -> str:
        return f"output_blocks.{(self.levels - 1 - level) * (self.res_blocks + 1) + block}"


def read_unet(state: Mapping[str, Tensor], params: Params) -> tuple[UNetConfig, State]:
    """Read config and weights under our names, from keys without their `model.diffusion_model.` prefix.

    `params` is the original's unet_config.params; only what shapes can't tell is read from it (head counts, order of
    q, k and v).

    Raises:
        CheckpointError: naming the key that doesn't fit.
    """
    _check(state, params)
    layout = _layout(state, params)
    config = _config(state, layout, params)
    new_order = bool(params.get("use_new_attention_order", False))
    return config, _renamed(state, _names(state, layout), None if new_order else config)


def renamed_trunk(state: Mapping[str, Tensor]) -> State:
    """Rename the way down and the middle alone, of networks with cross-attention: what a ControlNet copies.

    Raises:
        CheckpointError: naming a key that has no place.
    """
    levels = 1 + sum(bool(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", key)) for key in state)
    layout = Layout(levels, _count(state, "input_blocks") // levels - 1, conv_resample=True)
    return _renamed(state, _names(state, layout), None)


def _check(state: Mapping[str, Tensor], params: Params) -> None:
    for key in ("input_blocks.0.0.weight", "out.2.weight", "middle_block.0.in_layers.0.weight"):
        if key not in state:
            raise CheckpointError(f"unet: lacks {key}", field=key)
    alike = (-1, params.get("num_heads", -1))
    if params.get("num_head_channels", -1) in (-1, None) and params.get("num_heads_upsample", -1) not in alike:
        raise CheckpointError("unet: num_heads_upsample other than num_heads is not supported")


def _layout(state: Mapping[str, Tensor], params: Params) -> Layout:
    inputs, outputs = _count(state, "input_blocks"), _count(state, "output_blocks")
    present = {int(key.split(".")[1]) for key in state if key.startswith("input_blocks.")}
    bare = [i for i in range(inputs) if i not in present]
    ups = sum(1 for i in range(outputs) if _last(state, f"output_blocks.{i}")[1] in ("res", "conv"))
    if bare and (ups or params.get("conv_resample", True)):
        key = f"input_blocks.{bare[0]}.0.op.weight"
        raise CheckpointError(f"unet: lacks {key}, and the config doesn't say conv_resample: false", field=key)
    levels = (ups or len(bare)) + 1
    res_blocks = outputs // levels - 1
    if outputs != levels * (res_blocks + 1) or inputs != outputs:
        raise CheckpointError(f"unet: {inputs} input and {outputs} output blocks don't make {levels} levels")
    return Layout(levels, res_blocks, conv_resample=not bare)


def _count(state: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max((int(key.split(".")[1]) for key in state if key.startswith(blocks + ".")), default=-1)


def _kinds(state: Mapping[str, Tensor], block: str) -> list[str]:
    """List what a block's submodules are, in order: res, conv, transformer or attention."""
    known = {"in_layers.0": "res", "op": "conv", "conv": "conv", "transformer_blocks.0.norm1": "transformer"}
    kinds = []
    for j in range(3):
        found = [kind for key, kind in known.items() if f"{block}.{j}.{key}.weight" in state]
        kinds += found or (["attention"] if f"{block}.{j}.qkv.weight" in state else [])
    return kinds


def _last(state: Mapping[str, Tensor], block: str) -> tuple[int, str]:
    """Return index and kind of a block's last submodule; a lone residual block is the block itself."""
    kinds = _kinds(state, block)
    return len(kinds) - 1, kinds[-1] if len(kinds) > 1 else ""


def _config(state: Mapping[str, Tensor], layout: Layout, params: Params) -> UNetConfig:
    levels = range(layout.levels)
    channels = tuple(len(state[f"{layout.down(i, 0)}.0.out_layers.3.bias"]) for i in levels)
    attention = tuple(len(_kinds(state, layout.down(i, 0))) > 1 for i in levels)
    context = state.get("middle_block.1.transformer_blocks.0.attn2.to_k.weight")
    heads = tuple(head_count(params, c) for c in channels)
    emb = state["middle_block.0.emb_layers.1.bias"]
    return UNetConfig(
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=len(state["out.2.weight"]),
        channels=channels,
        res_blocks=layout.res_blocks,
        attention=attention,
        heads=heads,
        mid_heads=heads[-1],
        **({} if context is None else _cross_attention(state, layout, context.shape[1], params)),
        scale_shift_norm=len(emb) == 2 * channels[-1],
        res_down=tuple(i < layout.levels - 1 and _is_res(state, layout.down(i, layout.res_blocks)) for i in levels),
        res_up=tuple(i > 0 and _last(state, layout.up(i, layout.res_blocks))[1] == "res" for i in levels),
        conv_resample=layout.conv_resample,
        added_dim=state[ADDED].shape[1] if ADDED in state else None,
        num_classes=len(state["label_emb.weight"]) if "label_emb.weight" in state else None,
        norm_groups=NORM_GROUPS,
    )


def _cross_attention(state: Mapping[str, Tensor], layout: Layout, context_dim: int, params: Params) -> dict[str, Any]:
    """Give levels without attention the middle's depth, as configs do that have one number for all."""
    prefixes = [f"{layout.down(i, 0)}.1" for i in range(layout.levels)]
    middle = _depth(state, "middle_block.1")
    only = params.get("disable_self_attentions") or [_only_cross(state, prefix) for prefix in prefixes]
    attends = [_depth(state, prefix) > 0 for prefix in prefixes]
    return {
        "context_dim": context_dim,
        "depth": tuple(_depth(state, prefix) or middle for prefix in prefixes),
        "mid_depth": middle,
        "only_cross_attention": tuple(bool(o and a) for o, a in zip(only, attends, strict=True)),
        "linear_projection": state["middle_block.1.proj_in.weight"].ndim == 2,
    }


def head_count(params: Params, channels: int) -> int:
    """Count the heads of a layer this wide.

    Raises:
        CheckpointError: the config gives neither their number nor their width.
    """
    width, number = params.get("num_head_channels", -1), params.get("num_heads", -1)
    if width in (-1, None) and number in (-1, None):
        raise CheckpointError("unet: the config has neither num_heads nor num_head_channels", field="num_heads")
    # Levels without attention may be narrower than a head.
    count = number if width in (-1, None) else max(channels // width, 1)
    if count < 1 or channels % count:
        raise CheckpointError(f"unet: {channels} channels can't be split into {count} heads", field="num_heads")
    return int(count)


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    depth = 0
    while f"{prefix}.transformer_blocks.{depth}.norm1.weight" in state:
        depth += 1
    return depth


def _only_cross(state: Mapping[str, Tensor], prefix: str) -> bool:
    """Tell whether the first attention reads the context: its keys take the context's width, where that differs."""
    block = f"{prefix}.transformer_blocks.0"
    if f"{block}.attn1.to_k.weight" not in state:
        return False
    widths = [state[f"{block}.{name}.weight"].shape[1] for name in ("attn1.to_k", "attn1.to_q", "attn2.to_k")]
    return widths[0] == widths[2] != widths[1]


def _is_res(state: Mapping[str, Tensor], block: str) -> bool:
    return f"{block}.0.in_layers.0.weight" in state


def _names(state: Mapping[str, Tensor], layout: Layout) -> dict[str, str]:
    """Map every submodule to our prefix."""
    names = dict(TRUNK)
    for level in range(layout.levels):
        for block in range(layout.res_blocks + 1):
            up, i = layout.up(level, block), layout.levels - 1 - level
            last, kind = _last(state, up)
            names[f"{up}.0"] = f"up_blocks.{i}.resnets.{block}"
            names[f"{up}.1"] = f"up_blocks.{i}.attentions.{block}"
            if kind in ("res", "conv"):
                names[f"{up}.{last}"] = f"up_blocks.{i}.upsamplers.0"
            down = layout.down(level, block)
            names[f"{down}.0"] = f"down_blocks.{level}.resnets.{block}"
            names[f"{down}.1"] = f"down_blocks.{level}.attentions.{block}"
        names[f"{layout.down(level, layout.res_blocks)}.0"] = f"down_blocks.{level}.downsamplers.0"
    return names


def _renamed(state: Mapping[str, Tensor], names: dict[str, str], old_order: UNetConfig | None) -> State:
    """Rename all keys; `old_order` is set where q, k and v lie head by head."""
    out: State = {}
    for key, value in state.items():
        match = SUBMODULE.match(key)
        if match is None or match[1] not in names:
            raise CheckpointError(f"unet: has no place for {key}", field=key)
        prefix = names[match[1]]
        if key.endswith((".qkv.weight", ".qkv.bias")) and old_order is not None:
            value = _heads_last(value, old_order, prefix)
        rest = key[match.end() :]
        if f"{match[1]}.qkv.weight" in state:
            name, _, kind = rest.partition(".")
            rest = f"{ATTENTION_BLOCK.get(name, name)}.{kind}"
        out[f"{prefix}.{rest}"] = value
    return renamed(out, (*COMPVIS_RESBLOCK, *DIFFUSERS))


def _heads_last(qkv: Tensor, config: UNetConfig, prefix: str) -> Tensor:
    """Reorder rows laid out per head as [q | k | v] into [q | k | v] of all heads."""
    part, level, *_ = prefix.split(".")
    if part == "mid_block":
        heads = config.mid_heads
    else:
        i = int(level) if part == "down_blocks" else len(config.channels) - 1 - int(level)
        heads = config.heads[i]
    return torch.Tensor(rearrange(qkv, "(h three d) ... -> (three h d) ...", h=heads, three=3))
