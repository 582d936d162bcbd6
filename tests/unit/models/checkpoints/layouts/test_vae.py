"""First stages in files of their own: beside a model, by its card, for models without one; a folder of A1111's."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoints.convert import Target, convert
from models.checkpoints.inspect import inspect
from models.checkpoints.layouts.detect import load_checkpoint, loaded_files
from models.checkpoints.layouts.vae import read_vae
from models.checkpoints.load import load
from models.checkpoints.scan import ScannedCheckpoint, scan
from service.requests.cards import installed_cards, installed_controlnets, installed_loras
from tests.controls import write_controls
from tests.loras import write_loras
from tests.parity.run import CASES, SD1_FILE, SD1_FOLDER
from workers.library.catalogue import find_cards, find_controlnets, find_loras, write_missing_cards

PREFIX = "first_stage_model."


def another_vae() -> dict[str, Tensor]:
    """A first stage for `SD1_FILE` with other weights than its own, under original names."""
    own = {key.removeprefix(PREFIX): value for key, value in load_file(SD1_FILE).items() if key.startswith(PREFIX)}
    return {key: value * 2 for key, value in own.items()}


def write_lightning(path: Path) -> None:
    """Write it as Lightning does, in a pickle with what else the training had."""
    state = another_vae() | {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7}, path)


def first_stage(path: Path) -> Tensor:
    weight: Tensor = load(path).first_stage.decoder.conv_out.weight
    return weight


def by_name(models_dir: Path) -> dict[str, ScannedCheckpoint]:
    return {item.path.name: item for item in scan(models_dir)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    # The tiny model's, whose vocabulary isn't shipped.
    shutil.copytree(SD1_FOLDER / "tokenizer", tmp_path / "tokenizer")
    return Path(shutil.copy(SD1_FILE, tmp_path / "dream.safetensors"))


@pytest.mark.parametrize(
    "ending", ["vae.pt", "vae.safetensors", "vae.ckpt", "vae.pth", "vae.bin", "VAE.safetensors", "vae.PT"]
)
def test_what_lies_beside_a_model_is_its_first_stage(model: Path, ending: str) -> None:
    plain, vae = first_stage(model), model.with_name(f"dream.{ending}")
    if vae.suffix == ".safetensors":
        save_file(another_vae(), vae)
    else:
        write_lightning(vae)
    torch.testing.assert_close(first_stage(model), plain * 2)
    assert loaded_files(model) == [model, vae]
    [found] = scan(model.parent)
    assert (found.path, found.error) == (model, None)
    assert f"its first stage is that of dream.{ending}" in found.notes
    torch.testing.assert_close(first_stage(found.card.parent), plain * 2)
    assert any(vae.name in note for note in inspect(model).notes)


def test_a_file_out_of_a_diffusers_folder_is_read_without_its_config(model: Path, tmp_path: Path) -> None:
    """As people download it; the attention's first names in it, too."""
    folder = convert(model, tmp_path / "folder", "diffusers") / "vae"
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert read_vae(folder)[0] == load_checkpoint(model).config.first_stage
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for names in ({}, old):
        for now, before in names.items():
            state = {key.replace(f".{now}.", f".{before}."): value for key, value in state.items()}
        save_file({key: value * 2 for key, value in state.items()}, model.with_suffix(".vae.safetensors"))
        torch.testing.assert_close(first_stage(model), first_stage(SD1_FILE) * 2)
        config, _ = read_vae(model.with_suffix(".vae.safetensors"))
        assert replace(config, force_upcast=False) == replace(read_vae(folder)[0], force_upcast=False)
    assert "First stage alone: KL, f=4, 4 channels" in inspect(model.with_suffix(".vae.safetensors")).description
    cut = {key: value for key, value in state.items() if key != "decoder.conv_in.weight"}
    save_file(cut, model.with_suffix(".vae.safetensors"))
    with pytest.raises(CheckpointError, match=r"dream\.vae\.safetensors.*decoder\.conv_in\.weight"):
        load(model)


@pytest.mark.parametrize("norm", [{}, {".attn_1.norm.": ".attn_1.group_norm."}])
def test_names_of_attention_that_an_old_script_left_are_read(norm: dict[str, str], model: Path) -> None:
    """Of models and of VAEs alone: converted back from diffusers, matrices in place of convolutions."""
    names = norm | {".attn_1.q.": ".attn_1.to_q.", ".attn_1.k.": ".attn_1.to_k.", ".attn_1.v.": ".attn_1.to_v."}
    names[".attn_1.proj_out."] = ".attn_1.to_out.0."
    state = load_file(model)
    for ours, theirs in names.items():
        state = {
            key.replace(ours, theirs): value.flatten(1) if ours in key and value.ndim > 1 else value
            for key, value in state.items()
        }
    expected = load(model).first_stage
    save_file(state, model)
    alone = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    for place in (model, model.with_name("dream.vae.safetensors")):
        save_file(state if place == model else alone, place)
        found = load(model).first_stage
        assert all(map(torch.equal, found.state_dict().values(), expected.state_dict().values()))
        assert found.config == expected.config


@pytest.mark.parametrize("says", [True, False, None])
def test_whether_a_first_stage_overflows_is_its_own_to_say(tmp_path: Path, says: bool | None) -> None:
    """SDXL's own does; one that was trained for float16 takes its place and says so."""
    folder = shutil.copytree(CASES / "sdxl" / "sdxl_base" / "pipeline", tmp_path / "folder")
    another = shutil.copytree(folder / "vae", tmp_path / "another")
    config = json.loads((another / "config.json").read_text("utf-8")) | {"force_upcast": says}
    config = {key: value for key, value in config.items() if value is not None}
    (another / "config.json").write_text(json.dumps(config), "utf-8")
    assert load(folder, dtype=torch.float16).first_stage_dtype == torch.float32
    (folder / "card.json").write_text(json.dumps({"vae": "another"}), "utf-8")
    wanted = torch.float16 if says is False else torch.float32
    assert load_checkpoint(folder).config.first_stage_dtype(torch.float16) == wanted


def test_vaes_that_no_model_beside_them_takes_are_named(model: Path) -> None:
    models = model.parent
    shutil.copytree(SD1_FOLDER, models / "folder")
    (models / "elsewhere").mkdir()
    for name in ("dream.vae.pt", "dream.vae.ckpt", "folder.vae.pt", "elsewhere/dream.vae.pt", "shared.vae.pt"):
        write_lightning(models / name)
    found = {item.path.relative_to(models).as_posix(): item for item in scan(models)}
    lone = {name for name, item in found.items() if "a VAE that no model beside it takes" in str(item.error)}
    assert lone == {"dream.vae.ckpt", "folder.vae.pt", "elsewhere/dream.vae.pt", "shared.vae.pt"}
    assert {name for name, item in found.items() if item.error is None} == {"dream.safetensors", "folder"}
    card = found["folder"].card
    card.write_text(json.dumps({**json.loads(card.read_text("utf-8")), "vae": "shared.vae.pt"}), "utf-8")
    assert "shared.vae.pt" not in by_name(models)


def test_a_vae_that_comes_goes_or_changes_renews_card_and_hash(model: Path) -> None:
    def card_hash() -> str:
        [found] = scan(model.parent)
        return str(json.loads(found.card.read_text("utf-8"))["hash"])

    vae = model.with_name("dream.vae.pt")
    plain = card_hash()
    write_lightning(vae)
    with_vae = card_hash()
    torch.save({key: value * 3 for key, value in another_vae().items()}, vae)
    changed = card_hash()
    vae.unlink()
    assert len({plain, with_vae, changed}) == 3
    assert card_hash() == plain


def test_a_card_names_one_of_the_folder_vae(model: Path) -> None:
    plain, [found] = first_stage(model), scan(model.parent)
    (model.parent / "VAE").mkdir()
    save_file(another_vae(), model.parent / "VAE" / "mse.safetensors")
    shutil.copytree(SD1_FOLDER / "vae", model.parent / "VAE" / "folder")
    assert len(scan(model.parent)) == 1

    def name(vae: str) -> None:
        card = json.loads(found.card.read_text("utf-8"))
        found.card.write_text(json.dumps({**card, "vae": vae}), "utf-8")

    name("mse.safetensors")
    torch.testing.assert_close(first_stage(model), plain * 2)
    assert scan(model.parent)[0].written
    assert installed_cards(model.parent)["dream"].vae == "mse.safetensors"
    name("folder")
    with pytest.raises(CheckpointError, match="its latents have f = 8 with 4 channels, the model's f = 4"):
        load(model)
    for bad in ("gone.safetensors", "../dream.safetensors", ".hidden"):
        name(bad)
        with pytest.raises(CheckpointError, match="is neither beside the model nor in a folder VAE"):
            load(model)
        assert "folder VAE" in str(scan(model.parent)[0].error)


def test_a_folder_of_diffusers_takes_one_by_its_card(tmp_path: Path) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "m")
    (tmp_path / "VAE").mkdir()
    vae = shutil.copytree(SD1_FOLDER / "vae", tmp_path / "VAE" / "mse")
    weights = vae / "diffusion_pytorch_model.safetensors"
    save_file({key: value * 2 for key, value in load_file(weights).items()}, weights)
    [found] = scan(tmp_path)
    found.card.write_text(json.dumps({**json.loads(found.card.read_text("utf-8")), "vae": "mse"}), "utf-8")
    torch.testing.assert_close(first_stage(folder), first_stage(SD1_FOLDER) * 2)


@pytest.mark.parametrize("to", ["native", "diffusers"])
def test_a_converted_model_has_it_inside(to: Target, model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (model.parent / "VAE").mkdir()
    save_file(another_vae(), model.parent / "VAE" / "mse.safetensors")
    [found] = scan(model.parent)
    card = json.loads(found.card.read_text("utf-8"))
    found.card.write_text(json.dumps({**card, "vae": "mse.safetensors", "licence": "mine"}), "utf-8")
    out = convert(model, tmp_path_factory.mktemp("elsewhere") / "out", to)
    torch.testing.assert_close(first_stage(out), first_stage(model))
    kept = json.loads((out / "card.json").read_text("utf-8"))
    assert ("vae" in kept, kept["licence"]) == (False, "mine")


def test_a_model_without_one_is_named_and_runs_with_one_beside_it(tmp_path: Path) -> None:
    state = {key: value for key, value in load_file(SD1_FILE).items() if not key.startswith(PREFIX)}
    model = tmp_path / "bare.safetensors"
    save_file(state, model)
    with pytest.raises(CheckpointError, match=r"has no first stage .* as NAME\.vae\.safetensors"):
        inspect(model)
    assert "has no first stage" in str(scan(tmp_path)[0].error)
    save_file(another_vae(), tmp_path / "bare.vae.safetensors")
    torch.testing.assert_close(first_stage(model), first_stage(SD1_FILE) * 2)
    assert load_checkpoint(model).config.first_stage == load_checkpoint(SD1_FILE).config.first_stage


def test_a_folder_as_an_a1111_user_has_it(model: Path) -> None:
    models = model.parent
    write_lightning(models / "dream.vae.pt")
    write_lightning(models / "lost.vae.pt")
    shutil.copy(SD1_FILE, models / "old.ckpt")
    (models / "cut.ckpt").write_bytes(SD1_FILE.read_bytes()[:1000])
    lora, controls = write_loras(models), write_controls(models)
    shutil.copy(CASES / "controlnet" / "canny_single_file" / "control_canny.pth", controls / "control_canny.pth")
    (models / "VAE").mkdir()
    save_file(another_vae(), models / "VAE" / "mse.safetensors")
    (models / "embeddings").mkdir()
    torch.save({"string_to_param": {"*": torch.zeros(1, 32)}}, models / "embeddings" / "style.pt")
    for folder, name in ((models, "dream"), (models, "old"), (lora, "style"), (controls, "control_canny")):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.preview.png")
        (folder / f"{name}.civitai.info").write_text('{"id": 1, "model": {"name": "x"}}', "utf-8")
        (folder / f"{name}.txt").write_text("sks, dog", "utf-8")
        (folder / f"{name}.yaml").write_text("model:\n  target: cldm.cldm.ControlLDM\n", "utf-8")
    (models / "Put Stable Diffusion checkpoints here.txt").touch()
    os.mkfifo(models / "pipe.vae.pt")
    write_missing_cards(models)
    assert list(installed_cards(models)) == list(find_cards(models)) == ["dream", "old"]
    assert list(installed_loras(models)) == list(find_loras(models)) == ["conv", "peft", "style"]
    assert set(installed_controlnets(models)) == set(find_controlnets(models)) == {"any", "lines", "control_canny"}
    assert not any(
        card.unserved for card in (*installed_loras(models).values(), *installed_controlnets(models).values())
    )
    found = by_name(models)
    assert sorted(found) == ["cut.ckpt", "dream.safetensors", "lost.vae.pt", "old.ckpt"]
    assert "its first stage is that of dream.vae.pt" in found["dream.safetensors"].notes
    assert "a VAE that no model beside it takes" in str(found["lost.vae.pt"].error)
    assert found["cut.ckpt"].error is not None
    torch.testing.assert_close(first_stage(model), first_stage(models / "old.ckpt") * 2)
    assert inspect(models / "VAE" / "mse.safetensors").description.startswith("First stage alone")
    with pytest.raises(CheckpointError, match="an embedding"):
        inspect(models / "embeddings" / "style.pt")
