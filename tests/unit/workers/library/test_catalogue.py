from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.base import Kind
from contract.card import CardDefaults, ModelCard
from core.errors import ConfigurationError
from core.settings import Settings
from service.requests.cards import card_folders, installed_loras
from tests.controls import CASE
from tests.parity.run import CASES
from tests.powers import as_an_ordinary_user
from workers.library.catalogue import (
    choose,
    chosen_cards,
    default_model,
    find_cards,
    find_embeddings,
    find_loras,
    write_missing_cards,
)


def write_card(models_dir: Path, model: str, *tasks: Kind) -> None:
    card = ModelCard(
        id=model,
        description="",
        hash="0",
        tasks=tasks,
        native_size=64,
        latent_factor=8,
        defaults=CardDefaults(steps=4, sampler="ddim"),
        fields=(),
        prediction_type="eps",
        samplers=("ddim",),
        licence="none",
    )
    (models_dir / model).mkdir()
    (models_dir / model / "card.json").write_text(card.to_json())


def test_by_default_the_first_model_of_each_task_that_the_default_one_lacks(tmp_path: Path) -> None:
    write_card(tmp_path, "art", "txt2img", "inpaint")
    write_card(tmp_path, "big", "upscale")
    write_card(tmp_path, "bigger", "upscale")
    write_card(tmp_path, "other", "txt2img")
    assert choose(find_cards(tmp_path), [], "art") == ["art", "big"]
    assert choose(find_cards(tmp_path), ["other", "bigger", "other"], "art") == ["other", "bigger"]
    assert list(chosen_cards(Settings(models_dir=tmp_path, model="art"), [])) == ["art", "big"]


def test_an_unknown_model_names_those_that_are_there(tmp_path: Path) -> None:
    write_card(tmp_path, "art", "txt2img")
    with pytest.raises(ConfigurationError, match="no model 'none'; there are: art"):
        choose(find_cards(tmp_path), ["none"], "art")
    with pytest.raises(ConfigurationError, match="there are: none"):
        choose(find_cards(tmp_path / "empty"), [], "art")


def test_a_card_that_does_not_read_is_left_out_with_one_line(tmp_path: Path) -> None:
    write_card(tmp_path, "art", "txt2img")
    write_card(tmp_path, "big", "upscale")
    (tmp_path / "art" / "card.json").write_text("{}")
    with capture_logs() as lines:
        write_missing_cards(tmp_path)
        assert list(find_cards(tmp_path)) == ["big"]
    assert [(line["event"], line["path"]) for line in lines] == [("card left out", str(tmp_path / "art" / "card.json"))]


def test_of_two_cards_with_one_id_all_take_the_first(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_card(tmp_path, "art", "txt2img")
        (tmp_path / "art").rename(tmp_path / folder)
        (tmp_path / "Lora" / folder).mkdir(parents=True)
        shutil.copy(CASES / "lora" / "sd1_peft" / "lora.safetensors", tmp_path / "Lora" / folder / "x.safetensors")
    with capture_logs() as lines:
        write_missing_cards(tmp_path)
    left_out = [line for line in lines if line["event"] == "card left out"]
    assert [(line["path"], line["error"]) for line in left_out] == [
        (str(tmp_path / "b" / "card.json"), f"{tmp_path / 'a' / 'card.json'} has its id")
    ]
    one, other = (tmp_path / "Lora" / folder / "x.card.json" for folder in ("a", "b"))
    other.write_text(one.read_text("utf-8").replace('"description": ""', '"description": "the second"'), "utf-8")
    assert find_cards(tmp_path)["art"][1] == card_folders(tmp_path)["art"] == tmp_path / "a"
    assert {name: found.card.card for name, found in find_loras(tmp_path).items()} == installed_loras(tmp_path)
    assert [card.description for card in installed_loras(tmp_path).values()] == [""]


def test_another_default_is_taken_only_where_none_was_chosen(tmp_path: Path) -> None:
    write_card(tmp_path, "big", "upscale")
    write_card(tmp_path, "sketch", "txt2img")
    found = find_cards(tmp_path)
    assert default_model(found, Settings(models_dir=tmp_path)) == "sketch"
    assert default_model(found, Settings(models_dir=tmp_path, model="gone")) == "gone"
    assert default_model({}, Settings(models_dir=tmp_path)) == "emoji"
    assert list(chosen_cards(Settings(models_dir=tmp_path), [])) == ["sketch", "big"]


def test_folders_that_this_user_may_not_read_are_told_once_each_and_left_out(tmp_path: Path) -> None:
    names = ("Lora", "VAE", "VAE-approx", "art", "embeddings")
    write_card(tmp_path, "art", "txt2img")
    write_card(tmp_path, "big", "upscale")
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name).chmod(0)
    with as_an_ordinary_user(), capture_logs() as lines:
        write_missing_cards(tmp_path)
        assert list(find_cards(tmp_path)) == ["big"]
        assert (find_loras(tmp_path), find_embeddings(tmp_path)) == ({}, {})
    assert [line["path"] for line in lines] == [str(tmp_path / name) for name in names]


def test_a_model_with_a_closed_part_is_left_out_with_one_line(tmp_path: Path) -> None:
    shutil.copytree(CASE / "two_controlnets" / "pipeline", tmp_path / "dream")
    (tmp_path / "dream" / "card.json").unlink(missing_ok=True)
    (tmp_path / "dream" / "unet").chmod(0)
    with as_an_ordinary_user(), capture_logs() as lines:
        write_missing_cards(tmp_path)
    assert {line["path"] for line in lines} == {str(tmp_path / "dream"), str(tmp_path / "dream" / "unet")}


def test_a_link_into_a_closed_folder_is_left_out_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_card(tmp_path / "models", "big", "upscale")
    (tmp_path / "theirs" / "dream").mkdir(parents=True)
    names = ("dream", "file.safetensors", "loras")
    (tmp_path / "models" / "dream").symlink_to(tmp_path / "theirs" / "dream")
    (tmp_path / "models" / "file.safetensors").symlink_to(tmp_path / "theirs" / "file.safetensors")
    (tmp_path / "models" / "loras").symlink_to(tmp_path / "theirs" / "dream")
    (tmp_path / "theirs").chmod(0)
    with as_an_ordinary_user(), capture_logs() as lines:
        write_missing_cards(tmp_path / "models")
        assert list(find_cards(tmp_path / "models")) == ["big"]
        assert find_loras(tmp_path / "models") == {}
    (tmp_path / "theirs").chmod(0o755)
    assert [line["path"] for line in lines] == [str(tmp_path / "models" / name) for name in names]


def test_an_add_on_whose_file_was_deleted_is_none_though_its_card_stays(tmp_path: Path) -> None:
    (tmp_path / "Lora").mkdir()
    shutil.copy(CASES / "lora" / "sd1_peft" / "lora.safetensors", tmp_path / "Lora" / "style.safetensors")
    write_missing_cards(tmp_path)
    assert list(find_loras(tmp_path)) == list(installed_loras(tmp_path)) == ["style"]
    (tmp_path / "Lora" / "style.safetensors").unlink()
    assert list(find_loras(tmp_path)) == list(installed_loras(tmp_path)) == []
