"""The folder Lora: cards of what files say and people set, broken files named, replaced ones read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.add_ons.loras.scan import scan_loras, trigger_words
from tests.loras import CASE, write_loras

TAGS = {"3_dogs": {"dog": 12, "grass ": 3}, "1_more": {"dog": 1, "sky": 9}}


def test_cards_say_what_files_do(tmp_path: Path) -> None:
    folder = write_loras(tmp_path)
    state = load_file(folder / "peft.safetensors")
    metadata = {"ss_tag_frequency": json.dumps(TAGS), "modelspec.title": "Dogs", "modelspec.license": "CC0-1.0"}
    metadata["ss_output_name"] = "dogs-v2"
    (folder / "animals").mkdir()
    save_file(state, folder / "animals" / "my dogs.safetensors", metadata)
    (folder / "animals" / "my dogs.txt").write_text("notes", "utf-8")
    items = {item.card.id: item for item in scan_loras(tmp_path) if item.card is not None}
    assert list(items) == ["conv", "peft", "style", "animals-my-dogs"]
    card = items["animals-my-dogs"].card
    assert card is not None
    assert (card.description, card.licence, card.trigger_words) == ("Dogs", "CC0-1.0", ("dog", "sky", "grass"))
    assert items["animals-my-dogs"].card is not None
    assert (card.names, card.card.names) == (("dogs-v2",), ("my dogs", "dogs-v2"))
    assert (card.rank, card.parts, card.context_width, card.unserved) == (4, ("unet", "text"), 32, None)
    assert all(item.written for item in items.values())
    assert not any(item.written for item in scan_loras(tmp_path))


def test_what_people_set_is_kept_when_a_file_is_replaced(tmp_path: Path) -> None:
    folder = write_loras(tmp_path)
    before = {item.path.stem: item.card for item in scan_loras(tmp_path)}["style"]
    place = folder / "style.card.json"
    place.write_text(json.dumps(json.loads(place.read_text("utf-8")) | {"licence": "mine", "id": "better"}), "utf-8")
    (folder / "style.safetensors").write_bytes((folder / "conv.safetensors").read_bytes())
    after = {item.path.stem: item for item in scan_loras(tmp_path)}["style"]
    assert before is not None
    assert after.card is not None
    assert after.written
    assert (after.card.licence, after.card.id) == ("mine", "better")
    assert after.card.hash != before.hash


def test_what_cannot_be_used_has_a_card_that_says_why(tmp_path: Path) -> None:
    folder = write_loras(tmp_path)
    (folder / "broken.safetensors").write_bytes(b"{")
    torch.save({"a": torch.zeros(2)}, folder / "other.pt")
    save_file({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, folder / "loha.safetensors")
    reasons = {item.path.stem: item.card.unserved for item in scan_loras(tmp_path) if item.card is not None}
    assert "header" in str(reasons["broken"])
    assert "a is no matrix of a LoRA" in str(reasons["other"])
    assert "LoHa is not served" in str(reasons["loha"])
    assert reasons["style"] is None


def test_a_damaged_card_leaves_only_its_own_lora_out(tmp_path: Path) -> None:
    folder = write_loras(tmp_path)
    (folder / "style.card.json").write_text("{", "utf-8")
    found = {item.path.stem: item for item in scan_loras(tmp_path)}
    assert "style.card.json" in str(found["style"].error)
    assert found["conv"].card is not None


def test_no_folder_no_loras(tmp_path: Path) -> None:
    assert scan_loras(tmp_path) == []
    assert scan_loras(CASE / "nowhere") == []


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, ()),
        ({"modelspec.trigger_phrase": "sks, dog "}, ("sks", "dog")),
        ({"ss_tag_frequency": "{"}, ()),
        ({"ss_tag_frequency": '{"a": 3, "b": {"cat": "x", "dog": 2}}'}, ("dog",)),
    ],
)
def test_trigger_words(metadata: dict[str, str], words: tuple[str, ...]) -> None:
    assert trigger_words(metadata) == words
