"""Files that are common and used to be refused, and files that are something else, each named for what it is."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.files.foreign import PIPELINES, WHOLE
from models.checkpoints.inspect import inspect
from models.checkpoints.layouts.compvis.ema import ROOT, averaged_alone
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.diffusers.writer import save_diffusers
from models.checkpoints.layouts.native import save_native
from models.checkpoints.load import load
from models.checkpoints.scan import scan
from tests.parity.run import CASES, SD1_FILE, SD1_FOLDER
from tests.unit.models.checkpoints import compvis_keys as keys

SDXL = CASES / "sdxl" / "sdxl_single_file"
UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
State = dict[str, Tensor]
CONFIGS = ("SD1_UNET", "SD2_UNET", "X4_UNET", "SR_UNET", "INPAINT_UNET", "CLASS_UNET", "CHURCHES_UNET", "CELEBA_UNET")


def without_text_model(state: State) -> State:
    return {key.replace("transformer.text_model.", "transformer."): value for key, value in state.items()}


def only_average(state: State) -> State:
    return {
        f"{ROOT}{key.removeprefix(UNET).replace('.', '')}" if key.startswith(UNET) else key: value
        for key, value in state.items()
    } | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def one_more_token(state: State) -> State:
    key = f"{TEXT}text_model.embeddings.token_embedding.weight"
    return state | {key: torch.cat([state[key], state[key][:1]])}


@pytest.mark.parametrize("change", [without_text_model, only_average, one_more_token])
def test_variants_of_sd1_load(change: Callable[[State], State], tmp_path: Path) -> None:
    state = keys.random_state(keys.sd_shapes(width=64, context=64, heads=8, open_clip=False))
    for name, tensors in (("a", state), ("b", change(state))):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    ours, theirs = load(tmp_path / "b.safetensors"), load(tmp_path / "a.safetensors")
    assert ours.tokenizers
    assert ours.config.unet == theirs.config.unet
    assert all(torch.equal(a, b) for a, b in zip(ours.unet.parameters(), theirs.unet.parameters(), strict=True))


def test_options_that_a_folder_leaves_null_are_those_that_it_leaves_out(tmp_path: Path) -> None:
    folder = shutil.copytree(SDXL.parent / "sdxl_base" / "pipeline", tmp_path / "m")
    for part, option in (("tokenizer/tokenizer_config", "model_max_length"), ("text_encoder/config", "architectures")):
        file = folder / f"{part}.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {option: None}), "utf-8")
    found, expected = load_checkpoint(folder), load_checkpoint(SDXL.parent / "sdxl_base" / "pipeline")
    assert found.config == expected.config
    assert [each.window for each in found.tokenizers] == [each.window for each in expected.tokenizers]


def test_the_projection_of_sdxls_second_tower_may_be_a_layers_weight(tmp_path: Path) -> None:
    file = shutil.copytree(SDXL, tmp_path / "m") / "model.safetensors"
    state, key = load_file(file), "conditioner.embedders.1.model.text_projection"
    expected = load_checkpoint(file).states["conditioner"]
    projection = state.pop(key)
    save_file(state | {f"{key}.weight": projection.T.contiguous()}, file)
    found = load_checkpoint(file).states["conditioner"]
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"lacks embedders\.1\.model\.text_projection"):
        load_checkpoint(file)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_an_average_gets_its_dots_back(name: str) -> None:
    shapes = keys.unet_shapes(getattr(keys, name))
    state = {f"{ROOT}{key.replace('.', '')}": torch.empty(0) for key in shapes}
    assert averaged_alone(state).keys() == shapes.keys()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"model": state},
        lambda state: {"module": {"state_dict": state}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"epoch": 3, "model_state_dict": state},
    ],
)
def test_nested_state_dicts_are_found(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    torch.save(wrap(load_file(SD1_FILE)), tmp_path / "m.ckpt")
    save_file(load_file(SD1_FILE), tmp_path / "n.safetensors")
    assert load_checkpoint(tmp_path / "m.ckpt").config == load_checkpoint(tmp_path / "n.safetensors").config


def test_fp8_pickles_load(tmp_path: Path) -> None:
    torch.save({key: value.to(torch.float8_e4m3fn) for key, value in load_file(SD1_FILE).items()}, tmp_path / "m.ckpt")
    assert next(load(tmp_path / "m.ckpt").unet.parameters()).dtype == torch.float32


FAMILIES: dict[str, tuple[list[str], str]] = {
    "lora": (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA"),
    "peft": (["unet.down_blocks.0.to_q.lora_A.weight"], "a LoRA"),
    "edm": (["edm_mean", "conditioner.embedders.0.x"], "a relative of Stable Diffusion XL trained on EDM's noise"),
    "video": ([f"{UNET}input_blocks.1.1.time_stack.0.norm_in.weight"], "Stable Video Diffusion"),
    "sd3": ([f"{UNET}joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
    "flux": (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
    "pixart": (["adaln_single.linear.weight"], "PixArt"),
    "sd3 transformer": (["transformer_blocks.0.attn.add_k_proj.weight"], "Stable Diffusion 3"),
    "flux transformer": (["single_transformer_blocks.0.attn.to_q.weight"], "Flux"),
    "chroma": (
        [f"{UNET}distilled_guidance_layer.in_proj.weight", f"{UNET}double_blocks.0.img_attn.qkv.weight"],
        "Chroma",
    ),
    "hunyuan dit": (["mlp_t5.0.weight", "blocks.0.attn1.Wqkv.weight"], "Hunyuan-DiT"),
    "hunyuan dit folder": (["text_embedding_padding", "blocks.0.attn1.to_q.weight"], "Hunyuan-DiT"),
    "hunyuan video": (
        ["txt_in.individual_token_refiner.blocks.0.norm1.weight", "double_blocks.0.img_attn.qkv.weight"],
        "Hunyuan Video",
    ),
    "auraflow": (["double_layers.0.attn.w2q.weight", "cond_seq_linear.weight"], "AuraFlow"),
    "auraflow folder": (
        ["joint_transformer_blocks.0.attn.add_k_proj.weight", "single_transformer_blocks.0.attn.to_q.weight"],
        "AuraFlow",
    ),
    "qwen": (["transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.attn.add_k_proj.weight"], "Qwen-Image"),
    "z image": ([f"{UNET}x_pad_token", f"{UNET}cap_embedder.1.weight"], "Z-Image"),
    "lumina": ([f"{UNET}cap_embedder.0.weight", f"{UNET}layers.0.attention.qkv.weight"], "Lumina"),
    "sana": (["blocks.0.mlp.inverted_conv.conv.weight", "blocks.0.scale_shift_table"], "Sana"),
    "ltx": (["patchify_proj.weight", "adaln_single.linear.weight"], "a model of videos"),
    "wan": (["head.modulation", "blocks.0.self_attn.q.weight"], "a model of videos"),
    "cascade c": (["clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"], "Stable Cascade"),
    "cascade b": (["effnet_mapper.0.weight", "down_blocks.1.0.channelwise.0.weight"], "Stable Cascade"),
    "wuerstchen prior": (["cond_mapper.0.weight", "blocks.0.channelwise.0.weight"], "Wuerstchen"),
    "wuerstchen decoder": (["effnet_mappers.0.weight", "clip_mapper.weight"], "Wuerstchen"),
    "kandinsky": (["add_embedding.image_norm.weight", "down_blocks.0.resnets.0.conv1.weight"], "Kandinsky"),
    "kandinsky 5": (["visual_transformer_blocks.0.self_attention.to_query.weight"], "Kandinsky"),
    "prior": (
        ["prd_embedding", "clip_mean", "transformer_blocks.0.attn1.to_q.weight"],
        "the prior of unCLIP or Kandinsky",
    ),
    "motion": (["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"], "AnimateDiff's motion module"),
    "t2i adapter": (["adapter.body.0.resnets.0.block1.weight", "adapter.conv_in.weight"], "a T2I-Adapter"),
    "t2i original": (["body.0.block1.weight", "conv_in.weight"], "a T2I-Adapter"),
    "ip adapter": (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
    "unclip": (["noise_augmentor.betas", f"{UNET}input_blocks.0.0.weight"], "unCLIP"),
    "zero123": (
        ["cc_projection.weight", "cond_stage_model.model.token_embedding.weight", f"{UNET}input_blocks.0.0.weight"],
        "Zero123 or image variations",
    ),
    "image variations": (
        ["cond_stage_model.model.visual.proj", f"{UNET}input_blocks.0.0.weight"],
        "Zero123 or image variations",
    ),
    "controlnet": (["control_model.input_hint_block.0.weight"], "a ControlNet"),
    "embedding": (["emb_params"], "an embedding"),
    "hypernetwork": (["320.0.linear.weight"], "a hypernetwork"),
    "esrgan": (["model.1.sub.0.RDB1.conv1.0.weight"], "ESRGAN"),
    "vae": (["encoder.conv_in.weight", "decoder.conv_in.weight"], "a VAE"),
    "unet": ([f"{UNET}input_blocks.0.0.weight"], "a UNet without its first stage"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_are_named_with_their_keys(name: str, tmp_path: Path) -> None:
    names, family = FAMILIES[name]
    save_file({key: torch.zeros(1, 1) for key in names}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / f"{name}.safetensors")
    assert family in caught.value.detail
    assert "latentd needs" in caught.value.detail
    assert min(names) in caught.value.detail


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4265380512\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_is_no_weight_file_is_named(content: bytes, what: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"m{suffix}").write_bytes(content)
    (found,) = scan(tmp_path)
    assert what in (found.error or "")
    assert f"m{suffix}" in (found.error or "")


def test_hypernetworks_and_embeddings_in_pickles_are_named(tmp_path: Path) -> None:
    torch.save({320: [{"linear.weight": torch.zeros(1)}], 768: [], "step": 3}, tmp_path / "h.pt")
    torch.save({"string_to_param": {"*": torch.zeros(1, 768)}, "name": "cat"}, tmp_path / "e.pt")
    adapter = {"image_proj": {"proj.weight": torch.zeros(1)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(1)}}
    torch.save(adapter, tmp_path / "i.bin")
    found = {item.path.stem: item.error or "" for item in scan(tmp_path)}
    assert "a hypernetwork" in found["h"]
    assert "an embedding" in found["e"]
    assert "an IP-Adapter" in found["i"]


def test_pipelines_of_other_families_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name, family in (
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("StableDiffusionXLControlNetPipeline", "Stable Diffusion XL with a ControlNet"),
        ("FluxPipeline", "Flux"),
        ("PixArtSigmaPipeline", "PixArt"),
        ("StableUnCLIPPipeline", "unCLIP"),
        ("KandinskyV22Pipeline", "Kandinsky"),
        ("StableCascadeCombinedPipeline", "Stable Cascade"),
        ("WuerstchenDecoderPipeline", "Wuerstchen"),
        ("AuraFlowPipeline", "AuraFlow"),
        ("ChromaPipeline", "Chroma"),
        ("HunyuanDiTPipeline", "Hunyuan"),
        ("Lumina2Pipeline", "Lumina"),
        ("QwenImagePipeline", "Qwen-Image"),
        ("ZImagePipeline", "Z-Image"),
        ("SanaPipeline", "Sana"),
        ("KolorsPipeline", "Kolors"),
        ("IFPipeline", "DeepFloyd IF"),
        ("MarigoldDepthPipeline", "Marigold"),
        ("StableDiffusionAdapterPipeline", "Stable Diffusion with a T2I-Adapter"),
    ):
        (tmp_path / "x" / "model_index.json").write_text(f'{{"_class_name": "{name}"}}', "utf-8")
        with pytest.raises(CheckpointError, match=f"{name} is {family}"):
            load_checkpoint(tmp_path / "x")
    (tmp_path / "x" / "model_index.json").write_text(
        '{"_class_name": "NewPipeline", "transformer": ["a", "b"]}', "utf-8"
    )
    with pytest.raises(CheckpointError, match="NewPipeline has no part unet; latentd needs"):
        load_checkpoint(tmp_path / "x")


def test_what_isnt_served_is_listed_with_what_it_would_need() -> None:
    text = " ".join(Path("docs/checkpoints.md").read_text("utf-8").split())
    listed = text[text.index("## What isn't served") : text.index("## Stable Diffusion XL ")]
    named = [what for _, what in (*WHOLE, *PIPELINES) if "ControlNet" not in what and "trained on EDM" not in what]
    for what in (name.split(",")[0].split(" (")[0].removeprefix("the prior of ") for name in named):
        assert all(family in listed for family in re.split(" or another transformer| or ", what)), what


def test_missing_and_misshapen_keys_have_the_files_names(tmp_path: Path) -> None:
    key = f"{UNET}input_blocks.1.0.in_layers.0.weight"
    save_file({k: v for k, v in load_file(SD1_FILE).items() if k != key}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        inspect(tmp_path / "m.safetensors")
    save_file(load_file(SD1_FILE) | {key: torch.zeros(3)}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=rf"{key} has shape \[3\]".replace(".", r"\.")):
        load(tmp_path / "m.safetensors")


def test_what_would_fail_at_the_first_picture_is_refused(tmp_path: Path) -> None:
    state = load_file(SD1_FILE)
    save_file({k: v for k, v in state.items() if not k.startswith("cond_stage_model.")}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no text encoder"):
        inspect(tmp_path / "a.safetensors")
    name = "first_stage_model.decoder.conv_out"
    grey = {f"{name}.weight": state[f"{name}.weight"][:1], f"{name}.bias": state[f"{name}.bias"][:1]}
    save_file(state | grey, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="makes 1; pictures have three"):
        inspect(tmp_path / "a.safetensors")
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "folder")
    index = json.loads((folder / "model_index.json").read_text("utf-8")) | {"text_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(CheckpointError, match="no text encoder"):
        inspect(folder)


@pytest.mark.parametrize("config", [None, {"use_tokenizer": False}])
def test_layout_models_are_told_by_their_vocabulary_or_config(tmp_path: Path, config: dict[str, bool] | None) -> None:
    unet = keys.unet_shapes({**keys.CLASS_UNET, "model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1})
    text = keys.bert_shapes(512, 1, vocab=8192 if config is None else 4000, positions=92)
    stage = keys.first_stage_shapes([1, 1, 1], 3, ch=32, blocks=1, codes=16)
    save_file(keys.random_state(keys.whole(unet, stage, text)), tmp_path / "a.safetensors")
    if config is not None:
        heads = {"params": {"num_head_channels": 32}}
        beside = {"model": {"params": {"unet_config": heads, "cond_stage_config": {"params": config}}}}
        (tmp_path / "a.json").write_text(json.dumps(beside), "utf-8")
    report = inspect(tmp_path / "a.safetensors")
    assert report.tasks == ("layout2img",)
    assert "conditioned on boxes" in report.description
    assert not any("tokenizer" in note for note in report.notes)
    folder = tmp_path / "native"
    save_native(load_checkpoint(tmp_path / "a.safetensors"), folder)
    assert inspect(folder).tasks == ("layout2img",)
    with pytest.raises(CheckpointError, match="no pipeline for class labels, label maps and boxes"):
        save_diffusers(load_checkpoint(folder), tmp_path / "diffusers")
