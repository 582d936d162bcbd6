"""Published models at full size on the meta device: parameter counts, complete key layouts, diffusers' agreement."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from models.checkpoints.build import fit
from models.checkpoints.checkpoint import Checkpoint, fitted, makers
from models.checkpoints.compvis.model import load_compvis
from models.checkpoints.compvis.single_file import SingleFile
from models.checkpoints.compvis.unet import read_unet
from models.checkpoints.diffusers.writer import components, pipeline_class
from models.config import ModelConfig
from models.networks.unet import UNet
from tests.unit.models.checkpoints import compvis_keys as keys

KL_F8 = keys.first_stage_shapes([1, 2, 4, 4], 4)
KL_F4 = keys.first_stage_shapes([1, 2, 4], 4)
VQ_F4 = keys.first_stage_shapes([1, 2, 4], 3, codes=8192)
VQ_F4_NOATTN = keys.first_stage_shapes([1, 2, 4], 3, codes=8192, mid=False)
CLASSES: keys.Shapes = {"embedding.weight": (1001, 512)}

# name: shapes, millions of parameters of each part
MODELS: dict[str, tuple[keys.Shapes, dict[str, float]]] = {
    "sd15": (
        keys.whole(keys.unet_shapes(keys.SD1_UNET), KL_F8, keys.clip_shapes(768, 12)),
        {"unet": 859.5, "first_stage": 83.7, "conditioner": 123.1},
    ),
    "sd21": (
        keys.whole(keys.unet_shapes(keys.SD2_UNET), KL_F8, keys.open_clip_shapes(1024, 24)),
        {"unet": 865.9, "first_stage": 83.7, "conditioner": 340.4},
    ),
    "text2img_large": (
        keys.whole(keys.unet_shapes(keys.TEXT_LARGE_UNET), KL_F8, keys.bert_shapes(1280, 32)),
        {"unet": 872.3, "first_stage": 83.7, "conditioner": 542.9},
    ),
    "x4_upscaler": (
        keys.whole(keys.unet_shapes(keys.X4_UNET), KL_F4, keys.open_clip_shapes(1024, 24)),
        {"unet": 473.4, "first_stage": 55.3, "conditioner": 340.4},
    ),
    "bsr_sr": (keys.whole(keys.unet_shapes(keys.SR_UNET), VQ_F4), {"unet": 113.6, "first_stage": 55.3}),
    "inpainting_big": (
        keys.whole(keys.unet_shapes(keys.INPAINT_UNET), VQ_F4_NOATTN),
        {"unet": 387.2, "first_stage": 53.2},
    ),
    "cin256_v2": (
        keys.whole(keys.unet_shapes(keys.CLASS_UNET), VQ_F4, CLASSES),
        {"unet": 400.9, "first_stage": 55.3, "conditioner": 0.5},
    ),
    "churches": (keys.whole(keys.unet_shapes(keys.CHURCHES_UNET), KL_F8), {"unet": 295.0, "first_stage": 83.7}),
    "celeba": (keys.whole(keys.unet_shapes(keys.CELEBA_UNET), VQ_F4), {"unet": 274.1, "first_stage": 55.3}),
}
FIRST_STAGES: dict[str, tuple[keys.Shapes, float]] = {
    "kl-f16": (keys.first_stage_shapes([1, 1, 2, 2, 4], 16, attention=(4,)), 69.6),
    "kl-f32": (keys.first_stage_shapes([1, 1, 2, 2, 4, 4], 64, attention=(4, 5)), 103.9),
    "vq-f8": (keys.first_stage_shapes([1, 2, 2, 4], 4, codes=16384, attention=(3,)), 67.7),
    "vq-f16": (keys.first_stage_shapes([1, 1, 2, 2, 4], 8, codes=16384, attention=(4,)), 69.6),
}


def _load(name: str) -> Checkpoint:
    """By detection alone: no config beside the file."""
    return load_compvis(SingleFile(Path(f"{name}.ckpt"), keys.meta_state(MODELS[name][0])))


def _millions(module: nn.Module) -> float:
    return sum(math.prod(value.shape) for value in module.parameters()) / 1e6


@pytest.mark.parametrize("name", MODELS)
def test_parts_have_the_published_parameter_counts(name: str) -> None:
    loaded = _load(name)
    with torch.device("meta"):
        counts = {part: _millions(make()) for part, make in makers(loaded.config).items()}
    assert counts == pytest.approx(MODELS[name][1], abs=0.06)


@pytest.mark.parametrize("name", MODELS)
def test_every_key_loads_and_none_is_left(name: str) -> None:
    loaded = _load(name)
    state = fitted(loaded)  # raises for a missing, unexpected or misshapen key
    assert set(state) == set(MODELS[name][1])


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_have_the_published_parameter_counts(name: str) -> None:
    shapes, millions = FIRST_STAGES[name]
    unet = keys.unet_shapes({**keys.CELEBA_UNET, "in_channels": 4, "out_channels": 4})
    loaded = load_compvis(SingleFile(Path("m.ckpt"), keys.meta_state(keys.whole(unet, shapes))))
    with torch.device("meta"):
        first_stage = makers(loaded.config)["first_stage"]()
    assert _millions(first_stage) == pytest.approx(millions, abs=0.06)
    fitted(loaded)


@pytest.mark.parametrize("new_order", [False, True])
def test_families_know_what_files_do_not_say(new_order: bool) -> None:
    heads = {name: _load(name).config.unet.heads for name in MODELS}
    assert heads["sd15"] == (8, 8, 8, 8)
    assert heads["sd21"] == (5, 10, 20, 20)
    assert heads["cin256_v2"] == (1, 1, 1, 1)
    assert heads["inpainting_big"] == (8, 8, 8, 8)
    assert heads["bsr_sr"] == (5, 10, 10, 20)
    params = {**keys.CELEBA_UNET, "use_new_attention_order": new_order}
    config, state = read_unet(keys.meta_state(keys.unet_shapes(params)), params)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in UNet(config).state_dict().items()}
    fit(state, shapes, "unet")


def _facts(config: ModelConfig) -> tuple[Any, ...]:
    return config.concat, config.schedule.prediction, config.schedule.beta_end, config.scale_factor


def test_tasks_and_schedules_follow_from_the_keys() -> None:
    facts = {name: _facts(_load(name).config) for name in MODELS}
    assert facts["sd15"] == (None, "eps", 0.012, 0.18215)
    assert facts["sd21"] == (None, "v", 0.012, 0.18215)
    assert facts["x4_upscaler"] == ("low-res", "v", 0.02, 0.08333)
    assert facts["bsr_sr"][0] == "low-res"
    assert facts["inpainting_big"][0] == "latent-mask"
    assert facts["text2img_large"] == (None, "eps", 0.012, 0.18215)


def _meta(cls: Any, config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = cls(**{key: value for key, value in config.items() if not key.startswith("_")})
    state: dict[str, Tensor] = model.state_dict()
    return state


@pytest.mark.parametrize("name", ["sd15", "sd21", "text2img_large", "x4_upscaler", "bsr_sr", "celeba"])
def test_diffusers_networks_have_the_keys_and_shapes_that_we_write(name: str) -> None:
    loaded = _load(name)
    for part, (config, state) in components(loaded, pipeline_class(loaded.config)).items():
        if state is None or part == "bert":
            continue
        if part == "text_encoder":
            with torch.device("meta"):
                theirs = CLIPTextModel(CLIPTextConfig(**config)).state_dict()
            theirs = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in theirs.items()}
        else:
            theirs = _meta(getattr(diffusers, config["_class_name"]), config)
        expected = {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith("position_ids")}
        assert {key: tuple(value.shape) for key, value in state.items()} == expected
