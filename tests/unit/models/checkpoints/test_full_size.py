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
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

from core.errors import CheckpointError
from models.checkpoints.build import fit
from models.checkpoints.checkpoint import Checkpoint, check, fitted, makers
from models.checkpoints.files.rename import CLIP, DIFFUSERS, renamed
from models.checkpoints.layouts.compvis.model import load_compvis
from models.checkpoints.layouts.compvis.single_file import SingleFile
from models.checkpoints.layouts.compvis.unet import read_unet
from models.checkpoints.layouts.diffusers.config import unet_config
from models.checkpoints.layouts.diffusers.writer import components, pipeline_class
from models.networks.conditioning import TextConfig
from models.networks.unet import UNet
from models.pipeline.config import ModelConfig
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
    "instruct_pix2pix": (
        keys.whole(keys.unet_shapes({**keys.SD1_UNET, "in_channels": 8}), KL_F8, keys.clip_shapes(768, 12)),
        {"unet": 859.5, "first_stage": 83.7, "conditioner": 123.1},
    ),
    "sd2_depth": (
        keys.whole(keys.unet_shapes({**keys.SD2_UNET, "in_channels": 5}), KL_F8, keys.open_clip_shapes(1024, 24)),
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
    "layout2img_openimages256": (
        keys.whole(keys.unet_shapes(keys.LAYOUT_UNET), VQ_F4, keys.bert_shapes(512, 16, vocab=8192, positions=92)),
        {"unet": 246.3, "first_stage": 55.3, "conditioner": 54.7},
    ),
    "churches": (keys.whole(keys.unet_shapes(keys.CHURCHES_UNET), KL_F8), {"unet": 295.0, "first_stage": 83.7}),
    "celeba": (keys.whole(keys.unet_shapes(keys.CELEBA_UNET), VQ_F4), {"unet": 274.1, "first_stage": 55.3}),
}
CLIP_L, BIG_G = keys.clip_shapes(768, 12), keys.open_clip_shapes(1280, 32)
SDXL = {"unet": 2567.5, "first_stage": 83.7, "conditioner": 817.7}
MODELS |= {
    "sdxl": (keys.whole_xl(keys.unet_shapes(keys.SDXL_UNET), KL_F8, CLIP_L, BIG_G), SDXL),
    "sdxl_inpainting": (
        keys.whole_xl(keys.unet_shapes({**keys.SDXL_UNET, "in_channels": 9}), KL_F8, CLIP_L, BIG_G),
        SDXL,
    ),
    "sdxl_refiner": (
        keys.whole_xl(keys.unet_shapes(keys.SDXL_REFINER_UNET), KL_F8, BIG_G),
        {"unet": 2259.5, "first_stage": 83.7, "conditioner": 694.7},
    ),
}
# config.json of the UNets as their authors published them for diffusers, what differs from the defaults.
XL_BASE: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
PUBLISHED_XL: dict[str, dict[str, Any]] = {
    "sdxl": XL_BASE,
    "sdxl_inpainting": {**XL_BASE, "in_channels": 9},
    "sdxl_refiner": {
        **XL_BASE,
        "attention_head_dim": [6, 12, 24, 24],
        "block_out_channels": [384, 768, 1536, 1536],
        "cross_attention_dim": 1280,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "projection_class_embeddings_input_dim": 2560,
        "transformer_layers_per_block": 4,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
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
    assert facts["sdxl"] == facts["sdxl_refiner"] == (None, "eps", 0.012, 0.13025)
    assert facts["sdxl_inpainting"] == ("mask-latent", "eps", 0.012, 0.13025)
    assert facts["instruct_pix2pix"] == ("source", "eps", 0.012, 0.18215)
    assert facts["sd2_depth"] == ("depth", "eps", 0.012, 0.18215)
    assert facts["bsr_sr"][0] == "low-res"
    assert facts["inpainting_big"][0] == "latent-mask"
    assert facts["text2img_large"] == (None, "eps", 0.012, 0.18215)


def test_sdxl_that_edits_is_named() -> None:
    shapes = keys.whole_xl(keys.unet_shapes({**keys.SDXL_UNET, "in_channels": 8}), KL_F8, CLIP_L, BIG_G)
    with pytest.raises(CheckpointError, match="8 channels; InstructPix2Pix of XL isn't served"):
        check(load_compvis(SingleFile(Path("m.safetensors"), keys.meta_state(shapes))))


def _meta(cls: Any, config: dict[str, Any]) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = cls(**{key: value for key, value in config.items() if not key.startswith("_")})
    state: dict[str, Tensor] = model.state_dict()
    return state


def test_sdxl_is_read_whole() -> None:
    base, refiner = _load("sdxl"), _load("sdxl_refiner")
    towers = base.config.conditioner.towers if isinstance(base.config.conditioner, TextConfig) else ()
    assert [(t.layers, t.heads, t.skip, t.final_norm, t.pooled) for t in towers] == [
        (12, 12, 1, False, None),
        (32, 20, 1, False, 1280),
    ]
    assert [tokenizer(["cat"])[0][0, -1].item() for tokenizer in base.tokenizers] == [49407, 0]
    assert (base.config.refines, base.config.zeros_for_no_prompt, base.config.latent_size) == (False, True, 128)
    assert (refiner.config.refines, refiner.config.zeros_for_no_prompt, len(refiner.tokenizers)) == (True, False, 1)


@pytest.mark.parametrize(("name", "wanted"), [("sdxl", "float32"), ("x4_upscaler", "float32"), ("sd15", "float16")])
def test_first_stages_of_single_files_overflow_where_diffusers_says_so(name: str, wanted: str) -> None:
    assert _load(name).config.first_stage_dtype(torch.float16) == getattr(torch, wanted)


@pytest.mark.parametrize("name", PUBLISHED_XL)
def test_published_unets_of_sdxl_are_those_of_single_files(name: str) -> None:
    published, single = unet_config(PUBLISHED_XL[name]), _load(name).config.unet
    with torch.device("meta"):
        ours, theirs = UNet(published).state_dict(), UNet(single).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    assert (published.heads, published.mid_heads) == (single.heads, single.mid_heads)
    diffusers_keys = renamed(_meta(diffusers.UNet2DConditionModel, PUBLISHED_XL[name]), DIFFUSERS)
    fit(diffusers_keys, {key: value.shape for key, value in ours.items()}, "unet")


IN_DIFFUSERS = ("sd15", "sd21", "instruct_pix2pix", "sd2_depth", "text2img_large", "x4_upscaler", "bsr_sr", "celeba")


@pytest.mark.parametrize("name", [*IN_DIFFUSERS, *PUBLISHED_XL])
def test_diffusers_networks_have_the_keys_and_shapes_that_we_write(name: str) -> None:
    loaded = _load(name)
    for part, (config, state) in components(loaded, pipeline_class(loaded.config)).items():
        if state is None or part == "bert":
            continue
        if part.startswith("text_encoder"):
            cls = CLIPTextModel if config["architectures"] == ["CLIPTextModel"] else CLIPTextModelWithProjection
            with torch.device("meta"):
                theirs = cls(CLIPTextConfig(**config)).state_dict()
            theirs = renamed(theirs, CLIP)
        else:
            theirs = _meta(getattr(diffusers, config["_class_name"]), config)
        expected = {key: tuple(value.shape) for key, value in theirs.items() if not key.endswith("position_ids")}
        assert {key: tuple(value.shape) for key, value in state.items()} == expected
