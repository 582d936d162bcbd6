"""ControlNet files: both layouts, whole models that hold one, what isn't served by name, and full-size keys."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file
from torch import Tensor

from core.errors import CheckpointError
from models.add_ons.controls.files import ControlFile, config_for, load_control, read_control, renamed_control
from models.add_ons.controls.scan import family_of
from models.checkpoints.build import fit
from models.checkpoints.files.rename import DIFFUSERS, renamed
from models.checkpoints.files.weights import read_tensors
from models.checkpoints.layouts.diffusers.config import unet_config
from models.networks.controlnet import ControlNet
from models.networks.unet import UNetConfig
from tests.controls import CASE, controlled_sd
from tests.unit.models.checkpoints import compvis_keys as keys

ORIGINAL = CASE / "canny_single_file" / "control_canny.pth"
FOLDER = CASE / "canny_folder" / "controlnet" / "diffusion_pytorch_model.safetensors"


def test_a_whole_model_that_holds_one_gives_it(tmp_path: Path) -> None:
    bare = read_tensors(ORIGINAL)
    whole = {f"control_model.{key.removeprefix('control_model.')}": value for key, value in bare.items()}
    torch.save({"state_dict": whole | {"model.diffusion_model.x": torch.zeros(1)}}, tmp_path / "whole.pth")
    again, first = read_control(tmp_path / "whole.pth"), read_control(ORIGINAL)
    assert again.state.keys() == first.state.keys()
    assert (again.context_width, again.hint_widths) == (first.context_width, first.hint_widths) == (32, (8, 8, 16, 16))


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("lora_controlnet", "Control-LoRA is not served"),
        ("task_embedding", "ControlNet Union is not served"),
        ("adapter.body.0.resnets.0.block1.weight", "a T2I-Adapter is not served"),
        ("conv_in.weight", "no ControlNet"),
    ],
)
def test_what_is_of_another_kind_is_named(tmp_path: Path, key: str, named: str) -> None:
    save_file({key: torch.zeros(2, 2, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=named):
        read_control(tmp_path / "x.safetensors")


def test_an_option_that_is_not_computed_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel", "global_pool_conditions": true}', "utf-8")
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(FOLDER.read_bytes())
    with pytest.raises(CheckpointError, match="global_pool_conditions is True"):
        read_control(weights)


def test_an_original_config_that_is_not_computed_is_named(tmp_path: Path) -> None:
    weights = tmp_path / "control_v11e_sd15_shuffle.pth"
    weights.write_bytes(ORIGINAL.read_bytes())
    with pytest.raises(CheckpointError, match=r"global_average_pooling is True.*shuffle\.yaml beside it may say"):
        read_control(weights)
    config = tmp_path / "control_v11e_sd15_shuffle.yaml"
    config.write_text("model:\n  params: {global_average_pooling: false}\n", "utf-8")
    assert read_control(weights).context_width == 32
    config.write_text("model:\n  params: {global_average_pooling: true}\n", "utf-8")
    with pytest.raises(CheckpointError, match="global_average_pooling is True"):
        read_control(weights)


def test_one_of_another_shape_is_refused_by_a_key_of_its_own() -> None:
    with pytest.raises(CheckpointError, match="ControlNet: lacks down_blocks"):
        load_control(read_control(ORIGINAL), controlled_sd())


# config.json of the networks as their authors published them for diffusers, what differs from the defaults.
PUBLISHED: dict[str, tuple[float, dict[str, Any]]] = {
    "control_v11p_sd15_canny": (361.3, {"cross_attention_dim": 768}),
    "controlnet-canny-sdxl-1.0": (
        1251.0,
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
}


XL = PUBLISHED["controlnet-canny-sdxl-1.0"][1]
# Small ones have no transformer block, mid-sized ones have them at the lowest resolution alone.
NONE, LAST = {"transformer_layers_per_block": (0, 0, 0)}, {"transformer_layers_per_block": (0, 0, 1)}
PUBLISHED |= {
    "controlnet-canny-sdxl-1.0-small": (160.1, {**XL, **NONE, "down_block_types": ("DownBlock2D",) * 3}),
    "controlnet-canny-sdxl-1.0-mid": (272.6, {**XL, **LAST}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_our_keys_and_shapes_at_full_size(name: str) -> None:
    millions, config = PUBLISHED[name]
    with torch.device("meta"):
        made: Any = ControlNetModel
        theirs = made(**config)
    file = ControlFile(Path(name), renamed(theirs.state_dict(), DIFFUSERS), {})
    with torch.device("meta"):
        ours = ControlNet(config_for(file, _unet(XL if "sdxl" in name else config)))
    fit(file.state, {key: value.shape for key, value in ours.state_dict().items()}, name)
    assert sum(value.numel() for value in theirs.state_dict().values()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert (family_of(file), file.context_width) == (("sdxl", 2048) if "sdxl" in name else ("sd1", 768))


def _unet(config: dict[str, Any]) -> UNetConfig:
    """Read the UNet that a ControlNet is a copy of: the way up mirrors the way down."""
    down = config.get("down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
    up = [block.replace("Down", "Up") for block in reversed(down)]
    plain = {"block_out_channels": (320, 640, 1280, 1280), "down_block_types": down, "up_block_types": up}
    own = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4}
    return unet_config({**plain, **config, **own})


@pytest.mark.parametrize(
    ("unet", "widths", "config"),
    [
        (keys.SD1_UNET, (320,) * 4 + (640,) * 3 + (1280,) * 5, {"cross_attention_dim": 768}),
        (keys.SDXL_UNET, (320,) * 4 + (640,) * 3 + (1280,) * 2, XL),
    ],
    ids=["sd1", "sdxl"],
)
def test_the_original_layout_at_full_size_has_our_keys_and_shapes(
    unet: dict[str, Any], widths: tuple[int, ...], config: dict[str, Any]
) -> None:
    trunk = ("time_embed.", "input_blocks.", "middle_block.", "label_emb.")
    shapes = keys.unet_shapes(unet)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items() if key.startswith(trunk)}
    hints = (16, 16, 32, 32, 96, 96, 256)
    state |= _conv("input_hint_block.0", 3, 16, 3) | _conv("input_hint_block.14", 256, 320, 3)
    for number, (a, b) in enumerate(pairwise(hints)):
        state |= _conv(f"input_hint_block.{2 * number + 2}", a, b, 3)
    for number, channels in enumerate(widths):
        state |= _conv(f"zero_convs.{number}.0", channels, channels, 1)
    state |= _conv("middle_block_out.0", 1280, 1280, 1)
    file = ControlFile(Path("x"), renamed_control(Path("x"), state), {})
    with torch.device("meta"):
        ours = ControlNet(config_for(file, _unet(config)))
    fit(file.state, {key: value.shape for key, value in ours.state_dict().items()}, "ControlNet")


def _conv(name: str, a: int, b: int, kernel: int) -> dict[str, Tensor]:
    weight, bias = torch.empty(b, a, kernel, kernel, device="meta"), torch.empty(b, device="meta")
    return {f"{name}.weight": weight, f"{name}.bias": bias}
