"""What benches write: JSON, a plot; and where they can't, they say so before minutes have passed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.errors import ConfigurationError
from latentd.bench.machine import peak_flops, this_machine
from latentd.bench.report import Plot, Report, Row, cell, draw
from latentd.cli import main
from latentd.cli.bench import check_files
from tests.disks import small_disk
from tests.tiny import write_tiny_upscale
from workers.planner.files import BenchReport

ROWS: tuple[Row, ...] = (
    {"model": "a", "batch": 1, "side": "ours", "it/s": 12.345},
    {"model": "a", "batch": 2, "side": "ours", "it/s": 1234.5},
    {"model": "a", "batch": 2, "side": "theirs", "it/s": None},
)


def report() -> Report:
    return Report("engine", this_machine("cpu"), ROWS, Plot("batch", "it/s", "side", "model"), ("A note.",))


def test_json_has_everything() -> None:
    found = json.loads(report().json())
    assert found["rows"] == list(ROWS)
    assert found["machine"]["torch"] == torch.__version__
    assert found["notes"] == ["A note."]


def test_a_plot_is_drawn_also_of_rows_without_a_value(tmp_path: Path) -> None:
    draw(report(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_cells_are_short() -> None:
    assert [cell(value) for value in (None, 3, "a", 0.012345, 98765.4)] == ["", "3", "a", "0.0123", "98765"]


def test_the_peak_is_that_of_a_matrix_product() -> None:
    assert 1e8 < peak_flops("cpu", torch.float32, 128) < 1e14


def test_files_that_cannot_be_written_are_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_files(tmp_path / "a.json", tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="--json"):
        check_files(tmp_path / "nowhere" / "a.json", None)
    monkeypatch.setattr("latentd.cli.bench.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"matplotlib.*latentd\[dev\]"):
        check_files(None, tmp_path / "a.png")


def test_folders_and_formats_that_nothing_draws_are_refused_early(tmp_path: Path) -> None:
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(ConfigurationError, match=r"--json .*: it is a folder"):
        check_files(tmp_path, None)
    with pytest.raises(ConfigurationError, match=r"--plot .*: it is a folder"):
        check_files(None, tmp_path / "plot.png")
    with pytest.raises(ConfigurationError, match=r"--plot .*plot\.xyz: ends in none of \.png, \.svg, \.pdf"):
        check_files(None, tmp_path / "plot.xyz")


def test_places_that_can_not_be_written_are_refused_early(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(ConfigurationError, match=r"--json .*: no permission to write there"):
            check_files(disk / "a.json", None)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["latentd", "bench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("engine", "--model", "sd16"), "--model 'sd16': there are emoji, sd15, sdxl, ldm-text-large"),
        (("engine", "--side", "them"), "--side 'them': there are latentd"),
        (("serve", "--model", "nothing"), "--model 'nothing': there are"),
    ],
)
def test_what_is_unknown_is_named_with_what_there_is(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_bench_alone_still_measures_the_step_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_upscale(tmp_path / "models" / "up")
    monkeypatch.setenv("LATENTD_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("LATENTD_MAX_ROWS", "2")
    monkeypatch.setenv("LATENTD_THREADS", "1")
    assert run(monkeypatch, "--device", "cpu", "--json") == 0
    found = BenchReport.model_validate_json(capsys.readouterr().out)
    assert [table.model for table in found.tables] == ["up"]
