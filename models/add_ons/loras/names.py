"""What files call the layers of a model.

The table is made from the modules themselves: in kohya's names `_` stands for `.` and for `_`; they can't be split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from models.checkpoints.build import FUSED
from models.checkpoints.files.rename import TO_DIFFUSERS, Renames
from models.networks.conditioning import TextEncoder
from models.networks.unet import UNet, UNetConfig

Part: TypeAlias = Literal["unet", "text"]
# What begins a file's names: kohya's, LyCORIS's, those of diffusers and PEFT. Attention processors alone name nothing.
PREFIXES: Mapping[str, str] = {
    "lora_unet_": "unet",
    "lycoris_": "unet",
    "unet.": "unet",
    "diffusion_model.": "unet",
    "lora_te_": "te1",
    "lora_te1_": "te1",
    "text_encoder.": "te1",
    "lora_te2_": "te2",
    "text_encoder_2.": "te2",
    "base_model.model.": "unet",
    "": "unet",
}
# Inside CompVis's blocks; of the network's own samplers down is `op`.
_TO_RESBLOCK: Renames = (
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
    (r"^(input_blocks\.\d+\.0)\.conv\.", r"\1.op."),
)
_OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}  # diffusers' first names


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's matrix belongs: a layer, and which of the matrices that are fused in it."""

    part: Part
    layer: str
    index: int = 0
    count: int = 1


Places: TypeAlias = Mapping[str, Place]  # by `normal` name


def normal(network: str, name: str) -> str:
    """Return the one form of a layer's name, whatever the layout: `unet:down_blocks_0_…`."""
    return f"{network}:{name.replace('.', '_')}"


def places(unet: UNet, text: TextEncoder | None) -> Places:
    """Make the table of all layers that can have low-rank products: linear ones and convolutions."""
    found: dict[str, Place] = {}
    blocks = _blocks(unet.config)
    for place, ours in _fused_apart(unet, "unet"):
        theirs = _renamed(ours, TO_DIFFUSERS)
        for name in (theirs, *_original(theirs, blocks)):
            found[normal("unet", name)] = found[normal("unet", name.removesuffix(".0"))] = place
    for network, prefix in () if text is None else towers(text):
        for place, theirs in _fused_apart(text, "text"):
            if theirs.startswith(prefix):
                found |= {normal(network, name): place for name in _text_names(theirs.removeprefix(prefix))}
    return found


def layers(unet: UNet, text: TextEncoder | None) -> Iterator[tuple[Place, str, str]]:
    """Yield every layer with its network (`unet`, `te1`, …) and its name in diffusers and transformers."""
    for place, ours in _fused_apart(unet, "unet"):
        yield place, "unet", _renamed(ours, TO_DIFFUSERS)
    for network, prefix in () if text is None else towers(text):
        for place, theirs in _fused_apart(text, "text"):
            if theirs.startswith(prefix):
                yield place, network, theirs.removeprefix(prefix)


def towers(text: TextEncoder) -> Sequence[tuple[str, str]]:
    """List the text towers of a conditioner: what files call each, and where its modules are."""
    return [(f"te{i + 1}", f"towers.{i}.") for i in range(len(text.towers))]


def _fused_apart(network: nn.Module | None, part: Part) -> Iterator[tuple[Place, str]]:
    """Yield every layer, those that hold several matrices once for each, as if it were by itself."""
    for layer, module in () if network is None else network.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        parent, _, name = layer.rpartition(".")
        matrices = FUSED.get(name, (name,))
        for index, matrix in enumerate(matrices):
            yield Place(part, layer, index, len(matrices)), f"{parent}.{matrix}" if parent else matrix


def _renamed(name: str, renames: Renames) -> str:
    key = f"{name}."
    for pattern, new in renames:
        key = re.sub(pattern, new, key)
    return key.removesuffix(".")


def _text_names(name: str) -> Iterator[str]:
    """Yield transformers' name, with and without its outer prefix, and diffusers' old one."""
    inner = name.removeprefix("text_model.")
    layer, _, last = inner.rpartition(".")
    for known in (inner, f"{layer}.{_OLD_TEXT[last]}" if last in _OLD_TEXT else inner):
        yield from (known, f"text_model.{known}")


def _original(name: str, blocks: Mapping[str, str]) -> Iterator[str]:
    """Yield CompVis's name of a layer of diffusers', under which kohya's SDXL files have it."""
    for block, original in blocks.items():
        if f"{name}.".startswith(f"{block}."):
            yield _renamed(original + name.removeprefix(block), _TO_RESBLOCK)


def _blocks(config: UNetConfig) -> dict[str, str]:
    """Return CompVis's names of our blocks."""
    levels, per_level = len(config.channels), config.res_blocks + 1
    found = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_out": "out.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": f"middle_block.{2 if config.mid_attention else 1}",
    }
    for level in range(levels):
        for j in range(per_level):
            down, up = f"input_blocks.{1 + level * per_level + j}", f"output_blocks.{level * per_level + j}"
            if j < config.res_blocks:
                found[f"down_blocks.{level}.resnets.{j}"] = f"{down}.0"
                found[f"down_blocks.{level}.attentions.{j}"] = f"{down}.1"
            else:
                found[f"down_blocks.{level}.downsamplers.0"] = f"{down}.0"
            found[f"up_blocks.{level}.resnets.{j}"] = f"{up}.0"
            found[f"up_blocks.{level}.attentions.{j}"] = f"{up}.1"
        attends = config.attention[levels - 1 - level]
        last = f"output_blocks.{level * per_level + config.res_blocks}"
        found[f"up_blocks.{level}.upsamplers.0"] = f"{last}.{2 if attends else 1}"
    return found
