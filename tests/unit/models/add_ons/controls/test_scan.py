"""The folder ControlNet: folders and files carded, what can't be used named; inspected, kept in memory, noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from core.errors import CheckpointError
from models.add_ons.controls.inspect import inspect_control
from models.add_ons.controls.scan import scan_controls
from tests.controls import CASE, applied, controlled_sd, library_of, write_controls
from tests.loras import small_sd


def test_folders_and_files_are_carded_once(tmp_path: Path) -> None:
    folder = write_controls(tmp_path)
    (folder / "sd15").mkdir()
    shutil.copy(CASE / "canny_single_file" / "control_canny.pth", folder / "sd15" / "control canny.pth")
    (folder / "sd15" / "control canny.yaml").write_text("model: {}", "utf-8")
    (folder / "broken.safetensors").write_bytes(b"{")
    torch.save({"a": torch.zeros(1)}, folder / "other.pt")
    items = {item.card.id: item for item in scan_controls(tmp_path) if item.card is not None}
    assert list(items) == ["any", "broken", "other", "lines", "sd15-control-canny"]
    assert all(item.written for item in items.values())
    reasons = {name: item.card.unserved for name, item in items.items() if item.card is not None}
    assert (reasons["any"], reasons["lines"], reasons["sd15-control-canny"]) == (None, None, None)
    assert "header" in str(reasons["broken"])
    assert "no ControlNet" in str(reasons["other"])
    assert {item.card.context_width for item in items.values() if item.card and not item.card.unserved} == {32}
    assert not any(item.written for item in scan_controls(tmp_path))


def test_no_folder_no_controlnets(tmp_path: Path) -> None:
    assert scan_controls(tmp_path) == []


def test_inspect_says_what_it_is(tmp_path: Path) -> None:
    folder = write_controls(tmp_path)
    report = inspect_control(folder / "lines")
    assert report is not None
    assert report.format == "ControlNet, safetensors"
    assert inspect_control(folder / "any.safetensors") is not None
    assert inspect_control(CASE / "canny_folder" / "pipeline") is None
    torch.save({"lora_controlnet": torch.zeros(1)}, folder / "x.pth")
    with pytest.raises(CheckpointError, match="Control-LoRA is not served"):
        inspect_control(folder / "x.pth")


def test_a_network_is_read_once_and_one_that_was_replaced_or_fits_not_is_named(tmp_path: Path) -> None:
    folder = write_controls(tmp_path)
    library, lines, any_ = library_of(tmp_path), applied(tmp_path, "lines"), applied(tmp_path, "any")
    assert library.network(controlled_sd(), lines) is library.network(controlled_sd(), lines)
    shutil.copy(CASE / "canny_single_file" / "control_canny.pth", folder / "wide.pth")
    with pytest.raises(CheckpointError, match="'wide' doesn't fit model pipeline: ControlNet: "):
        library_of(tmp_path).network(small_sd(), applied(tmp_path, "wide"))
    with pytest.raises(CheckpointError, match="'gone' isn't here"):
        library.network(controlled_sd(), any_.model_copy(update={"id": "gone"}))
    shutil.copy(folder / "lines" / "diffusion_pytorch_model.safetensors", folder / "any.safetensors")
    with pytest.raises(CheckpointError, match="'any' was replaced since the job was accepted"):
        library.network(controlled_sd(), any_)
