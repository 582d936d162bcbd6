"""A models folder as people have it: nested, renamed, replaced while served, with files of other systems in it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.card import card_files
from models.checkpoints.card import weights_hash
from models.checkpoints.convert import Target, convert
from models.checkpoints.inspect import inspect
from models.checkpoints.layouts.detect import load_checkpoint, loaded_files
from models.checkpoints.load import load
from models.checkpoints.scan import scan
from service.requests.cards import installed_cards
from tests.parity.run import CASES, SD1_FILE, SD1_FOLDER
from tests.tiny import write_tiny
from workers.library.catalogue import find_cards, write_missing_cards

SDXL = CASES / "sdxl" / "sdxl_single_file"


def put(path: Path, source: Path = SD1_FILE) -> Path:
    """Copy a checkpoint to a place, with a tokenizer beside it where there is none yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.parent / "tokenizer").exists():
        shutil.copytree(SD1_FOLDER / "tokenizer", path.parent / "tokenizer")
    return Path(shutil.copy(source, path))


def ids(folder: Path) -> list[str]:
    """The ids that the gateway and the worker both see."""
    assert list(installed_cards(folder)) == list(find_cards(folder))
    return sorted(installed_cards(folder))


def test_a_pipe_hangs_nobody(tmp_path: Path) -> None:
    put(tmp_path / "a.safetensors")
    for name in ("pipe.ckpt", "b/model.ckpt", "c/card.json", "d/model_index.json", "e/tokenizer/tokenizer.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
    put(tmp_path / "e" / "model.safetensors")
    done: list[str] = []

    def look() -> None:
        write_missing_cards(tmp_path)
        done.extend(ids(tmp_path))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(60)
    assert "a" in done


def test_sub_folders_have_ids_by_their_path_and_some_hold_no_models(tmp_path: Path) -> None:
    for name in ("sd15/dream.safetensors", "sd15/REAL.SAFETENSORS", "sd15/deep/x.safetensors", "one/model.safetensors"):
        put(tmp_path / name)
    for name in ("Lora/l.safetensors", "embeddings/e.safetensors", "ControlNet/c.safetensors", "VAE/v.safetensors"):
        put(tmp_path / name)
    for name in ("._dream.safetensors", ".hidden.ckpt", ".cache/z.safetensors", "sd15/._REAL.safetensors"):
        put(tmp_path / name)
    write_missing_cards(tmp_path)
    assert ids(tmp_path) == ["one", "sd15-REAL", "sd15-deep", "sd15-dream"]
    for _, folder in find_cards(tmp_path).values():
        assert load(folder).config.scale_factor == 0.18215


def test_ids_that_collide_become_distinct_and_stay(tmp_path: Path) -> None:
    for name in ("my model", "my.model", "模型", "モデル"):
        put(tmp_path / f"{name}.safetensors")
    write_missing_cards(tmp_path)
    found = ids(tmp_path)
    assert len(found) == 4
    assert "my-model" in found
    put(tmp_path / "my+model.safetensors")
    write_missing_cards(tmp_path)
    assert set(ids(tmp_path)) > set(found)
    assert len(ids(tmp_path)) == 5
    assert not any(item.written for item in scan(tmp_path))


def test_a_copied_folder_gets_an_id_of_its_own(tmp_path: Path) -> None:
    write_tiny("plain", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_missing_cards(tmp_path)
    assert ids(tmp_path) == ["a", "b"]


def test_of_two_files_of_one_name_the_safetensors_is_served_and_the_other_named(tmp_path: Path) -> None:
    put(tmp_path / "x.safetensors")
    torch.save({"state_dict": load_file(SD1_FILE)}, tmp_path / "x.ckpt")
    for _ in range(2):
        (found,) = scan(tmp_path)
        assert (found.path.name, found.error) == ("x.safetensors", None)
        assert "x.ckpt beside x.safetensors is not served" in found.notes
        assert "8 heads" in found.notes[0]  # said each time, not only when the card is written
    assert load(found.card.parent).id == "x"


def test_a_replaced_file_renews_card_and_hash_and_keeps_what_people_set(tmp_path: Path) -> None:
    file = put(tmp_path / "x.safetensors")
    (found,) = scan(tmp_path)
    card = json.loads(found.card.read_text("utf-8"))
    found.card.write_text(json.dumps({**card, "licence": "mine"}), "utf-8")
    assert not scan(tmp_path)[0].written
    save_file(load_file(SD1_FILE), file, {"modelspec.prediction_type": "v"})
    assert scan(tmp_path)[0].written
    renewed = json.loads(found.card.read_text("utf-8"))
    assert renewed["hash"] != card["hash"]
    assert (renewed["id"], renewed["prediction_type"], renewed["licence"]) == ("x", "v", "mine")
    assert not scan(tmp_path)[0].written


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_replaced_part_of_a_folder_renews_card_and_hash(part: str, tmp_path: Path) -> None:
    weights = shutil.copytree(SD1_FOLDER, tmp_path / "m") / part / "diffusion_pytorch_model.safetensors"
    (found,) = scan(tmp_path)
    before = json.loads(found.card.read_text("utf-8"))["hash"]
    assert not scan(tmp_path)[0].written
    save_file({key: value * 2 for key, value in load_file(weights).items()}, weights)
    assert scan(tmp_path)[0].written
    assert json.loads(found.card.read_text("utf-8"))["hash"] == weights_hash(tmp_path / "m") != before


def test_served_weights_are_copies(tmp_path: Path) -> None:
    file = put(tmp_path / "x.safetensors")
    model = load(file)
    before = {key: value.clone() for key, value in model.unet.state_dict().items()}
    with file.open("r+b") as stream:
        stream.seek(0)
        stream.write(os.urandom(file.stat().st_size))
    os.truncate(file, 10)
    assert all(torch.equal(value, before[key]) for key, value in model.unet.state_dict().items())
    for module in (model.first_stage, model.conditioner):
        assert module is not None
        assert all(torch.isfinite(value).all() for value in module.state_dict().values())


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "folder"])
def test_one_bad_card_is_left_out_and_the_others_are_there(encoding: str, tmp_path: Path) -> None:
    write_tiny("plain", tmp_path / "good")
    bad = write_tiny("plain", tmp_path / "bad") / "card.json"
    text = bad.read_text("utf-8").replace("unknown", "Änderung erlaubt")
    bad.unlink()
    bad.mkdir() if encoding == "folder" else bad.write_bytes(text.encode(encoding))
    assert list(installed_cards(tmp_path)) == list(find_cards(tmp_path)) == ["good"]
    write_missing_cards(tmp_path)


def test_a_card_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    card = write_tiny("plain", tmp_path / "a") / "card.json"
    card.write_bytes(b"\xef\xbb\xbf" + card.read_bytes())
    assert ids(tmp_path) == ["a"]
    assert len(card_files(tmp_path)) == 1


def test_conversion_keeps_what_the_card_says(tmp_path: Path) -> None:
    file = put(tmp_path / "models" / "x.safetensors")
    (found,) = scan(tmp_path / "models")
    card = json.loads(found.card.read_text("utf-8"))
    found.card.write_text(json.dumps({**card, "licence": "mine", "prediction_type": "v"}), "utf-8")
    for source in (file, found.card.parent):
        out = convert(source, tmp_path / source.suffix.replace(".", "o") / "out", "native")
        kept = json.loads((out / "card.json").read_text("utf-8"))
        assert (kept["licence"], kept["prediction_type"], kept["id"]) == ("mine", "v", "out")
        assert load_checkpoint(out).config.schedule.prediction == load(out).config.schedule.prediction == "v"
        shutil.rmtree(out)


def put_lightning(folder: Path) -> Path:
    """A model whose name alone tells its defaults."""
    file = Path(shutil.copy(SDXL / "model.safetensors", folder / "sdxl_lightning_4step.safetensors"))
    shutil.copy(SDXL / "config.json", file.with_suffix(".json"))
    for tokenizer in ("tokenizer", "tokenizer_2"):
        shutil.copytree(SDXL.with_name("sdxl_base") / "pipeline" / tokenizer, folder / tokenizer)
    return file


def put_karras(folder: Path) -> Path:
    """A model whose scheduler's file alone tells its defaults."""
    scheduler = shutil.copytree(SD1_FOLDER, folder / "karras") / "scheduler" / "scheduler_config.json"
    told = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text("utf-8")) | told), "utf-8")
    return folder / "karras"


@pytest.mark.parametrize("to", ["native", "diffusers"])
@pytest.mark.parametrize(("made", "sampler", "steps"), [(put_lightning, "euler", 4), (put_karras, "dpmpp_2m", 50)])
def test_a_converted_model_keeps_its_defaults_when_it_is_copied(
    made: Callable[[Path], Path], sampler: str, steps: int, to: Target, tmp_path: Path
) -> None:
    out = convert(made(tmp_path), tmp_path / "models" / "fast", to)
    before = json.loads((out / "card.json").read_text("utf-8"))["defaults"]
    assert (before["sampler"], before["steps"]) == (sampler, steps)
    for file in loaded_files(out):
        os.utime(file, (1, 1))
    (found,) = scan(tmp_path / "models")
    assert (found.written, found.error) == (True, None)
    assert json.loads(found.card.read_text("utf-8"))["defaults"] == before


def test_only_files_that_are_loaded_count(tmp_path: Path) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "m")
    expected = loaded_files(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"):
        shutil.copy(weights, folder / "unet" / name)
    shutil.copytree(folder / "unet", folder / "safety_checker")
    assert loaded_files(folder) == expected
    assert len(expected) == 3


@pytest.mark.parametrize("variant", ["bf16", "non_ema", "fp16"])
def test_variants_are_read_where_there_is_nothing_else(variant: str, tmp_path: Path) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "m")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name(f"diffusion_pytorch_model.{variant}.safetensors"))
    assert load_checkpoint(folder).config == load_checkpoint(SD1_FOLDER).config


def test_renamed_suffixes_are_told_by_content(tmp_path: Path) -> None:
    put(tmp_path / "x.ckpt")
    torch.save({"state_dict": load_file(SD1_FILE)}, tmp_path / "y.safetensors")
    configs = [load_checkpoint(tmp_path / name).config for name in ("x.ckpt", "y.safetensors")]
    assert configs[0] == configs[1]
    assert inspect(tmp_path / "x.ckpt").format == "single file, safetensors"


def test_a_foreign_json_beside_the_file_is_none_of_its_config(tmp_path: Path) -> None:
    expected = load_checkpoint(put(tmp_path / "x.safetensors")).config
    for text in ('{"model": {"name": "Dream", "type": "Checkpoint"}}', "[1]", "{", '{"model": null}'):
        (tmp_path / "x.json").write_text(text, "utf-8")
        assert load_checkpoint(tmp_path / "x.safetensors").config == expected
