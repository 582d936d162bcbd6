"""The web UI's folder `models` with all that it holds: each file is recognised or named, none stops the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from contract.card import AddOnCard, EmbeddingCard
from core.errors import CheckpointError
from models.add_ons.controls.inspect import inspect_control
from models.add_ons.controls.scan import scan_controls
from models.add_ons.embeddings.inspect import inspect_embedding
from models.add_ons.embeddings.scan import scan_embeddings
from models.add_ons.loras.inspect import inspect_lora
from models.add_ons.loras.scan import scan_loras
from models.checkpoints.files.weights import is_weights
from models.checkpoints.inspect import inspect
from models.checkpoints.scan import scan
from tests.controls import CASE, write_controls
from tests.embeddings import write_embeddings
from tests.loras import write_loras
from tests.parity.run import SD1_FILE, SD1_FOLDER
from workers.library.catalogue import find_cards, find_controlnets, find_embeddings, find_loras, write_missing_cards

TOKENIZER = SD1_FOLDER / "tokenizer"
ONE = torch.zeros(1, 1, 1, 1)
# What else lies about, by its place: keys, and what is said of it.
OTHERS: dict[str, tuple[list[str], str]] = {
    "Stable-diffusion/flux1-dev.safetensors": (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
    "Stable-diffusion/sd3.safetensors": (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable D"),
    "Stable-diffusion/dogs.safetensors": (["lora_unet_down_blocks_0_x.lora_down.weight"], "a LoRA; its place is"),
    "Stable-diffusion/control.pth": (["control_model.input_hint_block.0.weight"], "a ControlNet; its place is"),
    "Stable-diffusion/style.pt": (["emb_params"], "an embedding"),
    "LyCORIS/loha.safetensors": (["lora_unet_mid_block_x.hada_w1_a"], "a LoRA; its place is the folder Lora"),
    "ESRGAN/4x.pth": (["model.1.sub.0.RDB1.conv1.0.weight"], "ESRGAN"),
    "hypernetworks/mood.pt": (["320.0.linear.weight"], "a hypernetwork"),
    "BLIP/model.pt": (["conv1.weight", "conv2.weight"], "its keys: conv1.weight, conv2.weight"),
    "GFPGAN/GFPGANv1.4.pth": (["stylegan_decoder.conv_body_first.weight"], "its keys: stylegan_decoder"),
    "deepbooru/model-resnet_custom_v3.pt": (["n_Conv_0.weight"], "its keys: n_Conv_0.weight"),
    "karlo/ViT-L-14_stats.th.pt": (["clip_mean", "clip_std"], "the prior of unCLIP or Kandinsky"),
}


def _write(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = dict.fromkeys(names, ONE)
    if path.suffix == ".safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """All of it, with the notes and pictures that tools put beside files."""
    models = tmp_path / "models"
    for place, (names, _) in OTHERS.items():
        _write(models / place, names)
    shutil.copy(SD1_FILE, models / "Stable-diffusion" / "dream.safetensors")
    shutil.copytree(TOKENIZER, models / "Stable-diffusion" / "tokenizer")  # the tiny model's, which isn't shipped
    write_loras(models)
    write_embeddings(models)
    shutil.copy(CASE / "canny_single_file" / "control_canny.pth", write_controls(models) / "control canny.pth")
    (models / "VAE").mkdir()
    torch.save({"state_dict": dict.fromkeys(["encoder.conv_in.weight"], ONE)}, models / "VAE" / "kl-f8.vae.pt")
    for file in [file for file in models.rglob("*") if is_weights(file)]:
        Image.new("RGB", (4, 4)).save(file.with_suffix(".preview.png"))
        Image.new("RGB", (4, 4)).save(file.with_suffix(".png"))
        file.with_suffix(".civitai.info").write_text('{"id": 1, "files": [{"type": "Model"}]}', "utf-8")
        file.with_suffix(".txt").write_text("sks dog, <lora:dogs:0.8>", "utf-8")
        file.with_suffix(".json").write_text('{"description": "", "sd version": "SD1"}', "utf-8")
    (models / "Stable-diffusion" / "Put Stable Diffusion checkpoints here.txt").touch()
    (models / "Stable-diffusion" / "half.safetensors.part").write_bytes(b"{")
    (models / "Stable-diffusion" / "empty.ckpt").touch()
    (models / "Stable-diffusion" / "a folder.safetensors").mkdir()
    os.symlink(models / "gone.ckpt", models / "Stable-diffusion" / "link.ckpt")
    os.symlink(models, models / "Stable-diffusion" / "loop")
    return models


def test_each_is_served_or_named_and_none_stops_the_others(models: Path) -> None:
    write_missing_cards(models)
    assert list(find_cards(models)) == ["Stable-diffusion-dream"]
    assert list(find_loras(models)) == ["conv", "peft", "style"]
    assert set(find_controlnets(models)) == {"any", "lines", "control-canny"}
    assert {"diffusers_style", "webui-style", "webui-tensors"} <= set(find_embeddings(models))
    assert _usable(item.card for item in scan_loras(models))
    assert _usable(item.card for item in scan_controls(models))
    assert _usable(item.card for item in scan_embeddings(models))
    errors = {item.path.relative_to(models).as_posix(): item.error for item in scan(models)}
    assert errors.pop("Stable-diffusion/dream.safetensors") is None
    assert "not a torch checkpoint" in str(errors["Stable-diffusion/empty.ckpt"])
    assert not any("loop" in place for place in errors)
    for place, (_, what) in OTHERS.items():
        folder = Path(place).parent.as_posix()
        said = errors.get(place) or errors.get(folder)  # a folder of one file is that file
        assert said is not None, place
        assert what in said, (place, said)


def _usable(cards: Iterable[AddOnCard | EmbeddingCard | None]) -> bool:
    return all(card is not None and card.unserved is None for card in cards)


def test_inspect_says_of_each_what_it_is_or_why_it_isnt_served(models: Path) -> None:
    for file in sorted(file for file in models.rglob("*") if is_weights(file)):
        assert _told(file) != "", file


def _told(file: Path) -> str:
    """As `latentd models inspect`; of a refusal what it says, where it names the file."""
    try:
        report = inspect_lora(file) or inspect_embedding(file) or inspect_control(file) or inspect(file)
    except CheckpointError as error:
        return error.detail if file.name in error.detail else ""
    return report.description
