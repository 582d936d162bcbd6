"""`latentd train`: a recipe from data on, in pieces; what is wrong is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import ConfigurationError
from latentd.cli import main
from latentd.cli.train import computing
from models.training.configs.base import write_config
from tests.disks import small_disk
from tests.training import SIZE, autoencoder_run, ldm_run, losses, write_balls


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `latentd train` and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["latentd", "train", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_a_recipe_runs_its_phases_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No minutes are one step each; the phase after an unfinished one waits."""
    write_balls(tmp_path / "data")
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    write_config(autoencoder_run(tmp_path, steps=2), recipe / "autoencoder.yaml")
    write_config(ldm_run(tmp_path, steps=2), recipe / "ldm.yaml")
    seen = []
    for _ in range(4):
        assert command(monkeypatch, "recipe", str(recipe), "--minutes", "0", "--device", "cpu") == 0
        seen.append((len(losses(tmp_path / "first")), len(losses(tmp_path / "ldm"))))
    assert seen == [(1, 0), (2, 1), (2, 2), (2, 2)]
    said = capsys.readouterr().err
    assert "first: stopped; the same command goes on" in said
    assert "ldm: done" in said


def test_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, below = tmp_path / "run.yaml", tmp_path / "below.yaml"
    write_config(autoencoder_run(tmp_path), file)
    write_balls(tmp_path / "pictures")
    data = {"folder": tmp_path / "pictures", "size": SIZE}
    write_config(autoencoder_run(tmp_path, data=data, out=file / "out"), below)
    for arguments, named in (
        (("autoencoder", "--config", str(file)), "data: no such folder"),
        (("ldm", "--config", str(file)), "autoencoder is unknown"),
        (("autoencoder", "--config", str(below)), "run.yaml/out: Not a directory"),
        (("recipe", str(tmp_path)), "has none of data.yaml"),
        (("upscaler", "--config", str(tmp_path / "no.yaml")), "can't be read"),
    ):
        assert command(monkeypatch, *arguments) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert named in last
        assert last.startswith("latentd: ")


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    """By Python, and by safetensors, which raises errors of its own."""
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        with pytest.raises(ConfigurationError, match=r"^No space left on device$"), computing():
            (disk / "log.jsonl").write_bytes(bytes(4 << 20))
        (disk / "log.jsonl").unlink()
        with pytest.raises(ConfigurationError, match="No space left on device"), computing():
            save_file({"weight": torch.zeros(1 << 20)}, disk / "unet.safetensors")


def test_a_device_that_lacks_memory_is_told_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^the device lacks memory: CUDA out of memory\. Tried"), computing():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
