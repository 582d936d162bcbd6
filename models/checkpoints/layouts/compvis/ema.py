"""Moving averages of UNets: the original names them by the keys below `model.` without their dots."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State

EMA = "model_ema."
ROOT = f"{EMA}diffusion_model"
COUNTERS = (f"{EMA}decay", f"{EMA}num_updates")
# A block's number is followed by that of its submodule, which has one digit.
BLOCKS = (
    (re.compile(r"^(input_blocks|output_blocks)(\d+)(\d)(?=\D)"), r"\1.\2.\3."),
    (re.compile(r"^middle_block(\d)"), r"middle_block.\1."),
    (re.compile(r"^(time_embed|out)(\d)(?=weight|bias)"), r"\1.\2."),
    (re.compile(r"^label_emb"), "label_emb."),
)
LAYERS = (
    (re.compile(r"(in_layers|out_layers|emb_layers)(\d)"), r"\1.\2."),
    (re.compile(r"\.(skip_connection|op|conv|norm|proj_in|proj_out|qkv)(?=weight|bias)"), r".\1."),
    (re.compile(r"transformer_blocks(\d+)"), r"transformer_blocks.\1."),
    (re.compile(r"(attn[12])(to_[qkv])"), r"\1.\2."),
    (re.compile(r"(attn[12])to_out0"), r"\1.to_out.0."),
    (re.compile(r"ffnet0proj"), "ff.net.0.proj."),
    (re.compile(r"ffnet2"), "ff.net.2."),
    (re.compile(r"\.(norm[123])(?=weight|bias)"), r".\1."),
)


def has_average(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(EMA) for key in state)


def averaged(state: Mapping[str, Tensor], unet: State) -> State:
    """Take the moving average of a UNet whose own weights are there too.

    Raises:
        CheckpointError: it lacks a key.
    """
    names = {key: f"{ROOT}{key.replace('.', '')}" for key in unet}
    for key, name in names.items():
        if name not in state:
            raise CheckpointError(f"the moving average lacks {key} ({name})", field=name)
    return {key: state[name] for key, name in names.items()}


def averaged_alone(state: Mapping[str, Tensor]) -> State:
    """Take the moving average of a file that holds nothing else of its UNet: dots go where the original has them."""
    names = [key for key in state if key.startswith(ROOT) and key not in COUNTERS]
    return {_dotted(key.removeprefix(ROOT)): state[key] for key in names}


def _dotted(key: str) -> str:
    for pattern, dotted in (*BLOCKS, *LAYERS):
        key = pattern.sub(dotted, key, count=1)
    return key
