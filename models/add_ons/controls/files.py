"""ControlNet files: diffusers' and the original layout read into one, and what is of another kind named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.build import State, build
from models.checkpoints.files.foreign import what_it_is
from models.checkpoints.files.rename import DIFFUSERS, Renames, renamed
from models.checkpoints.files.weights import read_json, read_tensors, understood
from models.checkpoints.layouts.compvis.single_file import read_yaml
from models.checkpoints.layouts.compvis.unet import renamed_trunk
from models.networks.controlnet import PICTURE, ControlNet, ControlNetConfig
from models.networks.unet import UNetConfig
from models.pipeline.pipeline import LatentDiffusion

CONFIG, CLASS = "config.json", "ControlNetModel"
SHUFFLES = re.compile(r"_shuffle(_fp16)?$", re.IGNORECASE)  # what ComfyUI, too, tells them by
POOLED = "global_average_pooling"  # of the original's configs, as global_pool_conditions of diffusers'
PREFIX = "control_model."  # of whole models that hold one
UNSERVED: tuple[tuple[str, str], ...] = (
    (r"^lora_controlnet$", "Control-LoRA"),
    (r"^lllite_", "ControlNet-LLLite"),
    (r"^(control_add_embedding|task_embedding|transformer_layes)\b", "ControlNet Union"),
    (r"^(adapter\.)?body\.\d+\.(resnets|block)|^adapter\.", "a T2I-Adapter"),
    (r"^(ip_adapter|image_proj)\b", "an IP-Adapter"),
    (r"^(double_blocks|joint_blocks|transformer_blocks|single_transformer_blocks)\.", "a ControlNet of a transformer"),
)
# Options with one value that is computed; absent keys mean that value.
ONLY = {
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "class_embed_type": None,
    "encoder_hid_dim_type": None,
}
HINT = "controlnet_cond_embedding"
XL_ADDED, XL_WIDTH = 2816, 2048  # SDXL's pooled text with six numbers, and its context
ORIGINAL_HINT = re.compile(r"^input_hint_block\.(\d+)\.")
ORIGINAL: Renames = (
    (r"^zero_convs\.(\d+)\.0\.", r"controlnet_down_blocks.\1."),
    (r"^middle_block_out\.0\.", "controlnet_mid_block."),
)


@dataclass(frozen=True, slots=True)
class ControlFile:
    """A file's tensors under our names, and its own keys by the ids of its tensors."""

    path: Path
    state: Mapping[str, Tensor]
    origin: Mapping[int, str]

    @property
    def context_width(self) -> int | None:
        """Width of what its cross-attention reads; of one without any that of its family."""
        own = next((t.shape[1] for key, t in self.state.items() if key.endswith("attn2.to_k.weight")), None)
        return XL_WIDTH if own is None and self.added_dim == XL_ADDED else own

    @property
    def added_dim(self) -> int | None:
        """Width of what SDXL adds to the time embedding, where it reads that."""
        weight = self.state.get("add_embedding.linear_1.weight")
        return None if weight is None else weight.shape[1]

    @property
    def mid_res_blocks(self) -> int:
        """Residual blocks of the middle."""
        return 1 if "mid_block.resnets.1.conv1.weight" not in self.state else 2

    def attends(self, block: str) -> bool:
        """Whether a level or the middle has what stands around transformer blocks, if there are any."""
        return any(key.startswith(f"{block}.attentions.0.") for key in self.state)

    def depth(self, block: str) -> int:
        """Transformer blocks of a level or the middle."""
        numbers = (re.match(rf"{block}\.attentions\.0\.transformer_blocks\.(\d+)\.", key) for key in self.state)
        return 1 + max((int(found[1]) for found in numbers if found), default=-1)

    @property
    def hint_widths(self) -> tuple[int, ...]:
        """Widths that its picture passes."""
        blocks = sum(key.startswith(f"{HINT}.blocks.") and key.endswith(".weight") for key in self.state)
        names = ("conv_in", *(f"blocks.{i}" for i in range(1, blocks, 2)))
        return tuple(len(self.state[f"{HINT}.{name}.weight"]) for name in names)


def read_control(path: Path, *, data: bool = True) -> ControlFile:
    """Read a weight file, with the config.json of diffusers' folders beside it; without `data` shapes alone.

    Raises:
        CheckpointError: it is damaged, no ControlNet, or of a kind that isn't served, by that kind's name.
    """
    with understood(path):
        state = read_tensors(path, data=data)
        if any(key.startswith(PREFIX) for key in state):
            state = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
        _refuse_unserved(path, state)
        origin = {id(value): key for key, value in state.items()}
        original = path.with_suffix(".yaml")
        if is_folder(path.parent):
            _check_config(path.with_name(CONFIG))
        elif SHUFFLES.search(path.stem) and not original.is_file():
            detail = f"{path}: is named as one that shuffles, so its {POOLED} is True; only False is supported"
            raise CheckpointError(f"{detail}, which a {original.name} beside it may say", field=POOLED, value=True)
        _check_original(original)
        file = ControlFile(path, renamed_control(path, state), origin)
        _check_picture(file)
        return file


def is_control(keys: Mapping[str, Tensor]) -> bool:
    """Tell ControlNets of both layouts, and kinds that aren't served, by their keys."""
    telling = (rf"^({PREFIX})?(input_hint_block|{HINT})\.", *(pattern for pattern, _ in UNSERVED[:4]))
    return any(re.search(pattern, key) for pattern in telling for key in keys)


def is_folder(folder: Path) -> bool:
    """Tell diffusers' folders of one ControlNet."""
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("_class_name") == CLASS


def _refuse_unserved(path: Path, state: Mapping[str, Tensor]) -> None:
    for pattern, kind in UNSERVED:
        if (key := next((key for key in state if re.search(pattern, key)), None)) is not None:
            raise CheckpointError(f"{path}: {kind} is not served (its key {key}); ControlNets are", field=key)


def _check_config(path: Path) -> None:
    config = read_json(path)
    for key, value in ONLY.items():
        if (got := config.get(key, value)) != value:
            raise CheckpointError(f"{path}: {key} is {got!r}; only {value!r} is supported", field=key, value=got)


def _check_original(path: Path) -> None:
    """Check the original's config beside a file, where there is one."""
    model = read_yaml(path).get("model")
    params = model.get("params") if isinstance(model, Mapping) else None
    if isinstance(params, Mapping) and params.get(POOLED):
        raise CheckpointError(f"{path}: {POOLED} is True; only False is supported", field=POOLED, value=True)


def _check_picture(file: ControlFile) -> None:
    key = f"{HINT}.conv_in.weight"
    if (channels := file.state[key].shape[1]) != PICTURE:
        detail = f"{file.path}: conditioning_channels is {channels}; only pictures of {PICTURE} channels are supported"
        raise CheckpointError(detail, field=file.origin.get(id(file.state[key]), key), value=channels)


def renamed_control(path: Path, state: State) -> State:
    """Rename the keys of either layout to ours.

    Raises:
        CheckpointError: it is none of them.
    """
    if f"{HINT}.conv_in.weight" in state:
        return renamed(state, DIFFUSERS)
    if "input_hint_block.0.weight" not in state:
        raise CheckpointError(f"{path}: no ControlNet: it lacks {HINT}.* and input_hint_block.*{what_it_is(state)}")
    own = ("input_hint_block.", "zero_convs.", "middle_block_out.")
    trunk = renamed_trunk({key: value for key, value in state.items() if not key.startswith(own)})
    rest = {_hint(key, state): value for key, value in state.items() if key.startswith(own)}
    return trunk | renamed(rest, ORIGINAL)


def _hint(key: str, state: State) -> str:
    """Rename a convolution of the picture's: they have even numbers, activations odd ones."""
    match = ORIGINAL_HINT.match(key)
    if match is None:
        return key
    last = max(int(found[1]) for name in state if (found := ORIGINAL_HINT.match(name)))
    number = int(match[1])
    name = "conv_in" if number == 0 else "conv_out" if number == last else f"blocks.{number // 2 - 1}"
    return f"{HINT}.{name}.{key[match.end() :]}"


def load_control(file: ControlFile, model: LatentDiffusion) -> ControlNet:
    """Make the network, which is a copy of the model's UNet as far as its middle, with the picture's convolutions.

    Raises:
        CheckpointError: naming the key that doesn't fit the model.
    """
    config = config_for(file, model.config.unet)
    if config.factor != model.latent_factor:
        wanted = f"the model's {model.latent_factor}"
        raise CheckpointError(f"its picture is {config.factor} times as large as the latent, {wanted}")
    device, dtype = str(model.device), model.dtype
    return build(lambda: ControlNet(config), file.state, "ControlNet", device, dtype, file.origin)


def config_for(file: ControlFile, whole: UNetConfig) -> ControlNetConfig:
    """Return the shape that a file must have to fit a model's UNet: that, or with fewer transformer blocks, or none."""
    levels = [f"down_blocks.{i}" for i in range(len(whole.channels))]
    unet = replace(
        whole,
        in_channels=whole.out_channels,
        num_classes=None,
        guidance_dim=None,
        attention=tuple(own and file.attends(level) for own, level in zip(whole.attention, levels, strict=True)),
        depth=tuple(map(min, whole.depth, map(file.depth, levels))),
        mid_attention=whole.mid_attention and file.attends("mid_block"),
        mid_depth=min(whole.mid_depth, file.depth("mid_block")),
    )
    return ControlNetConfig(unet, file.hint_widths, file.mid_res_blocks)


def size_of(network: torch.nn.Module) -> int:
    """Count the bytes of a network's weights."""
    return sum(parameter.nbytes for parameter in network.parameters())
