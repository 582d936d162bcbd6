"""Textual inversion: every layout read, cards of the folder, what can't be used named, what was replaced noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import CheckpointError
from models.add_ons.embeddings.files import read_embedding
from models.add_ons.embeddings.inspect import inspect_embedding
from models.add_ons.embeddings.scan import scan_embeddings
from models.checkpoints.load import load
from tests.embeddings import CASE, applied, library_of, write_embeddings
from tests.loras import small_sd
from tests.tiny import write_tiny_inpaint

VECTORS = torch.arange(6.0).reshape(2, 3)
L, G = torch.ones(2, 768), torch.ones(2, 1280)


def _first_web_ui(path: Path) -> None:
    """As the original training code wrote it, with a module where later ones have a dict."""
    torch.save({"string_to_token": {"*": 265}, "string_to_param": torch.nn.ParameterDict({"*": VECTORS})}, path)


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "diffusers": ("x.bin", lambda path: torch.save({"<x>": VECTORS}, path)),
    "diffusers one vector": ("x.bin", lambda path: torch.save({"<x>": VECTORS[0]}, path)),
    "web ui": ("x.pt", lambda path: torch.save({"string_to_param": {"*": VECTORS}, "name": "other"}, path)),
    "first web ui": ("x.pt", _first_web_ui),
    "safetensors": ("x.safetensors", lambda path: save_file({"emb_params": VECTORS}, path)),
    "half": ("x.safetensors", lambda path: save_file({"<x>": VECTORS.half()}, path)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    write(tmp_path / name)
    file = read_embedding(tmp_path / name)
    expected = VECTORS[:1] if layout == "diffusers one vector" else VECTORS
    assert (file.widths, file.vectors) == ((3,), len(expected))
    torch.testing.assert_close(file.towers[0].float(), expected)


def test_people_are_told_what_a_file_is(tmp_path: Path) -> None:
    save_file({"clip_l": L, "clip_g": G}, tmp_path / "look.safetensors")
    report = inspect_embedding(tmp_path / "look.safetensors")
    assert report is not None
    assert report.facts == {"family": "sdxl", "vectors": "2, 768 and 1280 wide", "prompts call it": "look"}
    save_file({"a": L, "b": G}, tmp_path / "other.safetensors")
    assert inspect_embedding(tmp_path / "other.safetensors") is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": VECTORS, "b": L}, "not an embedding, which is one tensor or clip_l and clip_g; this has a, b"),
        ({"clip_l": L, "clip_g": G[:1]}, "different numbers of vectors"),
        ({"x": torch.zeros(76, 8)}, "76 vectors; 1 to 75 fit in a chunk"),
        ({"x": torch.zeros(0, 8)}, "0 vectors"),
        ({"x": torch.zeros(2, 8, 8)}, "not an embedding: its tensors are"),
        ({"x": torch.zeros(2, 8, dtype=torch.int64)}, "not vectors of floating point"),
    ],
)
def test_what_is_none_is_refused(state: dict[str, torch.Tensor], said: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=said):
        read_embedding(tmp_path / "x.safetensors")


def test_cards_say_what_files_do_and_keep_what_people_set(tmp_path: Path) -> None:
    folder = tmp_path / "Embeddings"
    (folder / "negative").mkdir(parents=True)
    save_file({"clip_l": L, "clip_g": G}, folder / "XL.safetensors", {"modelspec.title": "Two towers"})
    save_file({"emb_params": L}, folder / "negative" / "bad hand.safetensors")
    save_file({"emb_params": L}, folder / "negative" / "xl.safetensors")
    (folder / "broken.pt").write_bytes(b"x")
    (folder / "XL.preview.png").write_bytes(b"")
    (folder / "XL.civitai.info").write_text("{}", "utf-8")
    items = {item.path.stem: item for item in scan_embeddings(tmp_path)}
    cards = {name: item.card for name, item in items.items() if item.card is not None}
    assert sorted(cards) == ["XL", "bad hand", "broken"]
    xl = cards["XL"]
    assert (xl.name, xl.family, xl.widths, xl.vectors, xl.description) == ("XL", "sdxl", (768, 1280), 2, "Two towers")
    assert cards["bad hand"].family == "sd1"
    assert "not a torch checkpoint" in str(cards["broken"].unserved)
    assert "another embedding has its name" in str(items["xl"].error)
    place = folder / "XL.card.json"
    place.write_text(json.dumps(json.loads(place.read_text("utf-8")) | {"licence": "mine", "name": "no"}), "utf-8")
    save_file({"emb_params": L * 2}, folder / "XL.safetensors")
    renewed = {item.path.stem: item for item in scan_embeddings(tmp_path)}["XL"].card
    assert renewed is not None
    assert (renewed.licence, renewed.name, renewed.family) == ("mine", "XL", "sd1")


def test_a_library_makes_numbers_behind_the_vocabulary(tmp_path: Path) -> None:
    folder, model = write_embeddings(tmp_path), small_sd()
    asked = applied(tmp_path, "webui-style", "webui-tensors")
    library = library_of(tmp_path)
    assert library.names == {"diffusers_style", "webui-style", "webui-tensors"}
    made = library.embeddings(model, asked)
    assert made is not None
    vocabulary = model.config.conditioner.towers[0].vocab_size  # type: ignore[union-attr]
    assert made.numbers == (
        {"webui-style": range(vocabulary, vocabulary + 3), "webui-tensors": range(vocabulary + 3, vocabulary + 5)},
    )
    assert made.vectors[0].shape == (5, 32)
    assert library.embeddings(model, []) is None
    gone = asked[0].model_copy(update={"name": "gone", "hash": "0"})
    with pytest.raises(CheckpointError, match="embedding 'gone' isn't here"):
        library.embeddings(model, [gone])
    (folder / "webui-style.pt").write_bytes((folder / "webui-tensors.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="embedding 'webui-style' was replaced since the job was accepted"):
        library_of(tmp_path).embeddings(model, asked)


def test_one_of_another_width_or_for_no_clip_is_named(tmp_path: Path) -> None:
    write_embeddings(tmp_path)
    asked = applied(tmp_path, "webui-style")
    other = load(CASE / "sd1_prompts" / "pipeline")
    with pytest.raises(CheckpointError, match="embedding 'webui-style' is 32 wide; model pipeline reads 20"):
        library_of(tmp_path).embeddings(other, asked)
    bert = load(write_tiny_inpaint(tmp_path / "bert"))
    with pytest.raises(CheckpointError, match="no text encoder of CLIP"):
        library_of(tmp_path).embeddings(bert, asked)
