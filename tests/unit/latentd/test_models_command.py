"""`latentd models inspect` on files that are no checkpoints: one line, exit code 1, nothing executed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from latentd.cli import main
from models.checkpoints.scan import scan
from tests.hostile import write_hostile


def inspect_line(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command says on standard error; it must end with 1 and print nothing else."""
    monkeypatch.setattr(sys, "argv", ["latentd", "models", "inspect", str(path)])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert (caught.value.code, said.out) == (1, "")
    return said.err


def test_each_bad_checkpoint_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    folder = tmp_path / "models"
    folder.mkdir()
    for name, named in write_hostile(folder, made).items():
        line = inspect_line(folder / name, capsys, monkeypatch)
        assert line.startswith("latentd: ")
        assert line.count("\n") == 1
        assert named in line
    assert not made.exists()


def test_scanning_leaves_each_out(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    names = write_hostile(folder, tmp_path / "made")
    found = {item.path.name: item.error or "" for item in scan(folder)}
    assert found.keys() == names.keys()
    assert all(named in found[name] for name, named in names.items())
    assert not list(folder.rglob("card.json"))
    assert not (tmp_path / "made").exists()
