"""Every layout loads to the same model: folders old and new, single files, with and without a config beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from contract.card import ModelCard
from core.errors import CheckpointError
from models.checkpoints.checkpoint import Checkpoint, fitted
from models.checkpoints.convert import convert
from models.checkpoints.inspect import inspect
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.load import load
from models.checkpoints.scan import scan
from models.inputs import Inputs
from models.pipeline.sampling import Conditioning, sample
from models.samplers import compile_plan
from tests.parity.run import CASES, SD1_FILE, SD1_FOLDER
from tests.tiny import write_tiny_inpaint, write_tiny_upscale
from tests.unit.models.checkpoints.compvis_keys import random_state, sd_shapes

TEXT = CASES / "compvis" / "ldm_text_full"
LEGACY = CASES / "diffusers" / "ldm_super_resolution_legacy_names" / "pipeline"
WHOLE = [
    *sorted((CASES / "compvis").glob("*_full/model.ckpt")),
    *sorted((CASES / "single_file").glob("*/model.safetensors")),
    *sorted((CASES / "diffusers").glob("*/pipeline")),
    *sorted((CASES / "sdxl").glob("*/model.safetensors")),
    *sorted((CASES / "sdxl").glob("*/pipeline")),
]
WITHOUT_PIPELINE = ("ldm_class_full", "ldm_inpaint_full")  # diffusers has none for these kinds


def _name(path: Path) -> str:
    return path.parent.name


def _same(a: Checkpoint, b: Checkpoint) -> None:
    assert a.config == b.config
    left, right = fitted(a), fitted(b)
    assert left.keys() == right.keys()
    for part in left:
        assert left[part].keys() == right[part].keys()
        for key, value in left[part].items():
            assert value.dtype == right[part][key].dtype
            assert torch.equal(value, right[part][key]), key


@pytest.mark.parametrize("path", WHOLE, ids=_name)
@pytest.mark.parametrize("to", ["native", "diffusers"])
def test_conversion_and_back_is_exact(path: Path, to: Any, tmp_path: Path) -> None:
    if to == "diffusers" and _name(path) in WITHOUT_PIPELINE:
        with pytest.raises(CheckpointError, match="convert --to native"):
            convert(path, tmp_path / "out", to)
        assert not any(tmp_path.iterdir())
        return
    original = load_checkpoint(path)
    out = convert(path, tmp_path / "one", to)
    _same(original, load_checkpoint(out))
    back = convert(out, tmp_path / "two", "native")
    _same(original, load_checkpoint(back))
    tokens = [[t(["a red cat!"])[0].tolist() for t in each.tokenizers] for each in (original, load_checkpoint(back))]
    assert tokens[0] == tokens[1]
    card = ModelCard.model_validate_json((out / "card.json").read_text("utf-8"))
    assert card.id == "one"


@pytest.mark.parametrize("to", ["native", "diffusers"])
def test_weights_that_were_trained_in_channels_last_convert(to: Any, tmp_path: Path) -> None:
    path, state = tmp_path / "trained.ckpt", load_file(SD1_FILE)
    last = {key: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for key, v in state.items()}
    torch.save({"state_dict": last}, path)
    _same(load_checkpoint(path), load_checkpoint(convert(path, tmp_path / "out", to)))


def test_an_upscaler_whose_scale_diffusers_would_lose_is_refused(tmp_path: Path) -> None:
    """Its pipeline never scales latents; those of our KL first stages have another deviation than one."""
    folder = convert(CASES / "compvis" / "ldm_sr_full" / "model.ckpt", tmp_path / "own", "native")
    index = json.loads((folder / "model.json").read_text("utf-8"))
    assert index["scale_factor"] == 1.0
    convert(folder, tmp_path / "whole", "diffusers")
    (folder / "model.json").write_text(json.dumps(index | {"scale_factor": 0.7}), "utf-8")
    with pytest.raises(CheckpointError, match=r"scale_factor is 0\.7; LDMSuperResolutionPipeline scales .* by 1\.0"):
        convert(folder, tmp_path / "lost", "diffusers")
    assert load_checkpoint(convert(folder, tmp_path / "kept", "native")).config.scale_factor == 0.7


@pytest.mark.parametrize("version", [2, 4])
def test_another_version_of_the_internal_form_is_refused(tmp_path: Path, version: int) -> None:
    out = convert(SD1_FOLDER, tmp_path / "out", "native")
    index = json.loads((out / "model.json").read_text("utf-8"))
    (out / "model.json").write_text(json.dumps(index | {"version": version}), "utf-8")
    with pytest.raises(CheckpointError, match=f"'latentd' {version} is unknown"):
        load_checkpoint(out)


@pytest.mark.parametrize("path", WHOLE, ids=_name)
def test_inspection_counts_every_parameter(path: Path) -> None:
    report = inspect(path)
    assert {part.name for part in report.parts} >= {"unet", "first_stage"}
    assert all(part.parameters > 1000 or part.name == "conditioner" for part in report.parts)
    assert report.tasks


@pytest.mark.parametrize(("name", "kind"), [("ae_kl_f8", "KL, f=8"), ("ae_vq_f4", "VQ, 64 codes, f=4")])
def test_a_first_stage_alone_is_recognised_and_is_no_model(name: str, kind: str) -> None:
    path = CASES / "compvis" / name / "model.ckpt"
    assert kind in inspect(path).description
    with pytest.raises(CheckpointError, match="not a whole latent diffusion model"):
        load_checkpoint(path)


def _variant(folder: Path, name: str, write: Any) -> Path:
    """The diffusers folder with the UNet's weights written another way."""
    copy = shutil.copytree(SD1_FOLDER, folder / name)
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    file.unlink()
    write(copy / "unet", state)
    return copy


def _shards(folder: Path, state: dict[str, Tensor]) -> None:
    keys = sorted(state)
    halves = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for file, some in halves.items():
        save_file({key: state[key] for key in some}, folder / file)
    index = {"weight_map": {key: file for file, some in halves.items() for key in some}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


VARIANTS: dict[str, Any] = {
    "bin": lambda folder, state: torch.save(state, folder / "diffusion_pytorch_model.bin"),
    "fp16": lambda folder, state: save_file(state, folder / "diffusion_pytorch_model.fp16.safetensors"),
    "sharded": _shards,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_of_folders_may_lie_otherwise(name: str, tmp_path: Path) -> None:
    _same(load_checkpoint(SD1_FOLDER), load_checkpoint(_variant(tmp_path, name, VARIANTS[name])))


def test_old_attention_names_are_the_new_ones() -> None:
    _same(load_checkpoint(LEGACY), load_checkpoint(CASES / "diffusers" / "ldm_super_resolution" / "pipeline"))


def _alone(source: Path, folder: Path) -> Path:
    """The file without its config."""
    return Path(shutil.copy(source, folder / f"alone{source.suffix}"))


def test_without_a_config_the_family_is_recognised(tmp_path: Path) -> None:
    alone, told = (
        load_checkpoint(_alone(SD1_FILE, tmp_path)),
        load_checkpoint(SD1_FILE),
    )
    assert alone.config.unet.heads == (8, 8)  # SD 1's; the tiny case has 4, as its config says
    assert alone.config.schedule.beta_end == told.config.schedule.beta_end
    assert alone.config.scale_factor == told.config.scale_factor == 0.18215
    assert "8 heads" in alone.assumptions[0]
    assert told.assumptions == ()


def test_eps_or_v_of_sd2_is_the_cards_to_say(tmp_path: Path) -> None:
    path = _alone(_wide_sd2(tmp_path), tmp_path)
    (found,) = (item for item in scan(tmp_path) if item.path == path)
    assert found.written
    assert any("prediction_type" in note for note in found.notes)
    card = found.card
    assert load(card.parent).config.schedule.prediction == "v"
    card.write_text(card.read_text("utf-8").replace('"prediction_type": "v"', '"prediction_type": "eps"'), "utf-8")
    assert load(card.parent).config.schedule.prediction == "eps"


def _wide_sd2(folder: Path) -> Path:
    """SD 2's heads are 64 wide, the tiny case's network is not: widen every layer to 64 channels."""
    path = folder / "wide" / "wide.safetensors"
    path.parent.mkdir()
    save_file(random_state(sd_shapes(width=64, context=64, heads=1, open_clip=True)), path)
    return path


def test_scanning_writes_cards_and_survives_what_is_no_checkpoint(tmp_path: Path) -> None:
    write_tiny_inpaint(tmp_path / "inpaint")
    (write_tiny_upscale(tmp_path / "upscale") / "card.json").unlink()
    shutil.copy(TEXT / "model.ckpt", tmp_path / "text.ckpt")
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    (tmp_path / "notes").mkdir()
    found = {item.path.name: item for item in scan(tmp_path)}
    assert set(found) == {"inpaint", "upscale", "text.ckpt", "broken.safetensors"}
    assert not found["inpaint"].written
    assert found["upscale"].written
    assert "no tokenizer" in (found["text.ckpt"].error or "")
    assert "broken.safetensors" in (found["broken.safetensors"].error or "")
    card = ModelCard.model_validate_json((tmp_path / "upscale" / "card.json").read_text("utf-8"))
    assert card.tasks == ("upscale",)
    assert card.scale == 4
    assert not any(item.written for item in scan(tmp_path))


def _without(path: Path, key: str) -> dict[str, Tensor]:
    return {name: value for name, value in load_file(path).items() if name != key}


def test_a_missing_key_is_named_in_the_files_own_words(tmp_path: Path) -> None:
    key = "model.diffusion_model.middle_block.0.in_layers.0.weight"
    save_file(_without(SD1_FILE, key), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"m\.safetensors: unet: lacks middle_block\.0\.in_layers\.0\.weight"):
        load_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "m.safetensors"), (b"\xff" * 100, "m.safetensors"), (b'{"a": 1}', "m.safetensors")],
)
def test_damaged_safetensors_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.safetensors")


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    data = SD1_FILE.read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_a_mixed_up_folder_is_named(tmp_path: Path) -> None:
    copy = shutil.copytree(SD1_FOLDER, tmp_path / "mixed")
    shutil.copy(LEGACY / "unet" / "config.json", copy / "unet" / "config.json")
    with pytest.raises(CheckpointError, match="unet"):
        load(copy)


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    save_file({"double_blocks.0.weight": torch.zeros(1)}, tmp_path / "flux.safetensors")
    with pytest.raises(CheckpointError, match="not a whole latent diffusion model"):
        load_checkpoint(tmp_path / "flux.safetensors")
    copy = shutil.copytree(SD1_FOLDER, tmp_path / "other")
    config = json.loads((copy / "unet" / "config.json").read_text("utf-8")) | {"addition_embed_type": "image"}
    (copy / "unet" / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match="addition_embed_type is 'image'"):
        load_checkpoint(copy)


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("x", "utf-8")
    with pytest.raises(CheckpointError, match="exists"):
        convert(SD1_FOLDER, tmp_path / "out", "native")
    assert (tmp_path / "out" / "kept").is_file()


def test_diffusers_runs_what_we_write_and_draws_the_same(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_file(random_state(sd_shapes(width=64, context=64, heads=8, open_clip=False)), path)
    model, out = load(path), convert(path, tmp_path / "small", "diffusers")
    theirs: Any = diffusers.StableDiffusionPipeline
    pipeline = theirs.from_pretrained(out, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    x_T = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent", "height": 64, "width": 64}
    expected = pipeline(["A red heart, it's 2 o'clock!"], latents=x_T, **options).images
    context, null = (model.encode_prompts([text]).context for text in ("A red heart, it's 2 o'clock!", ""))
    ours = sample(model, compile_plan("ddim", model.schedule, 3), x_T, Conditioning(Inputs(context), Inputs(null), 3.0))
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)
