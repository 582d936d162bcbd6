"""Stable Diffusion distilled to few steps is told by name or scheduler, and its card has the defaults that it needs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import CheckpointError
from models.checkpoints.card import default_card, notes_of
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.variants import variant_of
from tests.parity.run import CASES, SD1_FOLDER
from tests.tiny import configs

SDXL = CASES / "sdxl"
BASE = load_checkpoint(SDXL / "sdxl_base" / "pipeline", data=False).config
SD1 = load_checkpoint(SD1_FOLDER, data=False).config
REFINER = load_checkpoint(SDXL / "sdxl_refiner" / "pipeline", data=False).config


@pytest.mark.parametrize(
    ("name", "variant", "steps"),
    [
        ("sd_xl_turbo_1.0_fp16", "Turbo", 4),
        ("dreamshaperXL_v21TurboDPMSDE", "Turbo", 4),
        ("sdxl_lightning_8step", "Lightning", 8),
        ("juggernautXL_v9Rdphoto2Lightning", "Lightning", 4),
        ("realvisxlV50_v50HyperSDXL", "Hyper", 8),
        ("Hyper-SDXL-1step-merged", "Hyper", 1),
        ("animagine-xl-lcm", "LCM", 4),
        ("LCM-SDXL-merge", "LCM", 4),
        ("realistic_DMD2", "DMD2", 4),
        ("sd_xl_base_1.0", None, 0),
        ("hyperrealism_v3", None, 0),
        ("Hyper-Realistic v3", None, 0),
        ("welcome-mat-xl", None, 0),
    ],
)
def test_names_tell(name: str, variant: str | None, steps: int) -> None:
    found = variant_of(BASE, (name, ""))
    assert (found.name if found else None, found.steps if found else 0) == (variant, steps)


@pytest.mark.parametrize(
    ("name", "variant", "steps"),
    [
        ("sd-turbo", "Turbo", 4),
        ("realisticVisionV60B1_v51HyperVAE", "Hyper", 8),
        ("Hyper-SD15-4steps-merged", "Hyper", 4),
        ("dreamshaper-8-lcm", "LCM", 4),
        ("v1-5-pruned-emaonly", None, 0),
    ],
)
def test_names_tell_of_sd1_and_sd2_too(name: str, variant: str | None, steps: int) -> None:
    for config in (SD1, replace(SD1, concat="mask-latent")):
        found = variant_of(config, (name,))
        assert (found.name if found else None, found.steps if found else 0) == (variant, steps)


def test_what_draws_otherwise_has_no_variants() -> None:
    assert variant_of(REFINER, ("sdxl-turbo",)) is None
    others = (replace(SD1, concat="low-res"), replace(SD1, concat="source"), replace(SD1, concat="depth"))
    reads_guidance = replace(SD1, unet=replace(SD1.unet, guidance_dim=32))
    for config in (*configs().values(), *others, reads_guidance):
        assert variant_of(config, ("sd-turbo",), "lcm") is None


@pytest.mark.parametrize(
    ("scheduler", "steps", "sampler"),
    [("LCMScheduler", 4, "lcm"), ("TCDScheduler", 8, "tcd"), ("DDIMScheduler", 50, "ddim")],
)
def test_a_scheduler_tells_where_no_name_does(tmp_path: Path, scheduler: str, steps: int, sampler: str) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "mine")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": scheduler}))
    found = load_checkpoint(folder, data=False)
    defaults = default_card(found, "a", "0")["defaults"]
    assert (defaults["steps"], defaults["sampler"], defaults["guidance_scale"] == 1.0) == (steps, sampler, steps < 50)
    assert any("by its scheduler" in note for note in notes_of(found)) == (steps < 50)


def single_xl(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".json"):
        source = "model.safetensors" if suffix == ".safetensors" else "config.json"
        shutil.copy(SDXL / "sdxl_single_file" / source, folder / f"{name}{suffix}")
    return folder / f"{name}.safetensors"


def test_a_cards_defaults_follow_and_what_lacks_is_told(tmp_path: Path) -> None:
    found = load_checkpoint(single_xl(tmp_path, "sdxl_lightning_2step"), data=False)
    card = default_card(found, "a", "0")
    assert (card["defaults"]["steps"], card["defaults"]["sampler"]) == (2, "euler")
    assert (card["defaults"]["guidance_scale"], found.config.schedule.spacing) == (1.0, "trailing")
    assert any("Lightning, by its name" in note for note in notes_of(found))
    assert "Lightning" in card["description"]
    assert found.variant is not None
    other = replace(found, variant=replace(found.variant, samplers=("a_sampler_of_tomorrow", "ddim")))
    assert default_card(other, "a", "0")["defaults"]["sampler"] == "ddim"
    assert any("a_sampler_of_tomorrow, which it was made for" in note for note in notes_of(other))


SNAPSHOT = "models--stabilityai--{}/snapshots/71153311d3dbb46851df1931d3ca6e939de83304"


@pytest.mark.parametrize(
    ("place", "said", "variant"),
    [
        (SNAPSHOT.format("sdxl-turbo"), "", ("Turbo", 64)),
        (SNAPSHOT.format("stable-diffusion-xl"), "", None),
        ("mine", "stabilityai/sdxl-turbo", ("Turbo", 64)),
        ("mine", "/cache/" + SNAPSHOT.format("sdxl-turbo"), ("Turbo", 64)),
        ("mine", "lightning-people/xl", None),
    ],
)
def test_folders_are_called_as_their_repository_is(
    place: str, said: str, variant: tuple[str, int] | None, tmp_path: Path
) -> None:
    folder = shutil.copytree(SDXL / "sdxl_base" / "pipeline", tmp_path / place)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text("utf-8")) | {"_name_or_path": said}), "utf-8")
    found = load_checkpoint(folder, data=False)
    assert (found.variant and (found.variant.name, found.config.latent_size)) == variant


@pytest.mark.parametrize("place", ["dreamshaper8-LCM", SNAPSHOT.format("dreamshaper-8-lcm")])
def test_a_folder_tells_of_the_one_file_that_it_holds(place: str, tmp_path: Path) -> None:
    file = single_xl(tmp_path / place, "model")
    found = load_checkpoint(file, data=False)
    assert found.variant is not None
    assert found.variant.name == "LCM"
    single_xl(file.parent, "another")
    assert load_checkpoint(file, data=False).variant is None


def test_lightning_of_one_step_predicts_the_picture(tmp_path: Path) -> None:
    found = load_checkpoint(single_xl(tmp_path, "sdxl_lightning_1step_x0"), data=False)
    card = default_card(found, "a", "0")
    assert (card["prediction_type"], card["defaults"]["steps"], card["defaults"]["sampler"]) == ("x0", 1, "euler")
    plain = load_checkpoint(single_xl(tmp_path, "sdxl_lightning_2step"), data=False)
    assert plain.config.schedule.prediction == "eps"


def test_a_vector_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(SDXL / "sdxl_base" / "pipeline", tmp_path / "a")
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text("utf-8").replace('_input_dim": 88', '_input_dim": 96'), "utf-8")
    with pytest.raises(CheckpointError, match="pooled text of 40 and 6 or 5 numbers of 8 each"):
        load_checkpoint(folder, data=False)
