"""`latentd eval`: tables and JSON; what is wrong is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from latentd.cli import main
from tests.training import write_balls


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `latentd eval` and return its exit status."""
    monkeypatch.setattr(sys, "argv", ["latentd", "eval", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_compare_prints_published_rows_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_balls(tmp_path / "data")
    options = ["--data", str(data), "--out", str(tmp_path), "--train-steps", "2", "--device", "cpu"]
    assert command(monkeypatch, "compare", str(data), *options, "--paper", "inpainting") == 0
    said = capsys.readouterr().out
    ours, theirs = said.split("as published")
    assert "Fréchet distance" in ours
    assert "FID" not in ours
    assert "LaMa" in theirs
    assert "FID (Inception-v3)" in theirs
    assert command(monkeypatch, "compare", str(data), *options, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["published"] is None
    assert {figure["part"] for figure in told["figures"]} == {"data"}


def test_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_balls(tmp_path / "data"))
    for arguments, named in (
        (("--data", data), "eval needs --model and --data"),
        (("--model", str(tmp_path / "none"), "--data", data), str(tmp_path / "none")),
        (("compare", data, "--data", data, "--vgg", "vgg.safetensors"), "--vgg and --lpips belong together"),
        (("compare", data, data, "--data", data), "two methods' folders have the same name"),
    ):
        assert command(monkeypatch, *arguments) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert named in last
        assert last.startswith("latentd: ")
