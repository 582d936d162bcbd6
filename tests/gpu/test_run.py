"""The run itself: its stages, what is packed for it, and the tables that are made of what it found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from latentd.bench.machine import this_machine
from latentd.bench.report import Plot, Report, Row
from tests.gpu.pack import travels
from tests.gpu.run import SUMMARY, Ended, stages
from tests.gpu.tables import write
from tests.modules import ROOT


def test_the_rehearsal_has_the_stages_of_the_run_and_all_fit_in_half_an_hour(tmp_path: Path) -> None:
    real, rehearsed = stages(tmp_path, tiny=False), stages(tmp_path, tiny=True)
    assert [stage.name for stage in real] == [stage.name for stage in rehearsed]
    assert sum(stage.most_s for stage in real) <= 32 * 60
    assert all("--tiny" in stage.arguments for stage in rehearsed if stage.name.startswith("engine"))


@pytest.mark.parametrize(
    ("path", "goes"),
    [
        ("models/networks/unet.py", True),
        ("models/weights/emoji/card.json", True),
        ("models/weights/emoji/unet/diffusion_pytorch_model.safetensors", False),
        ("models/weights/emoji-upscale/card.json", False),
        ("tests/tiny.py", True),
        ("tests/gpu/run.py", True),
        ("tests/parity/cases/README.md", False),
        ("docs/images/drawn.png", False),
        ("pyproject.toml", True),
    ],
)
def test_code_travels_and_weights_travel_apart(path: str, goes: bool) -> None:
    assert travels(Path(path)) is goes


def test_the_script_of_the_other_machine_is_sound() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "tests" / "gpu" / "go")], check=True)


def test_every_row_of_the_tables_names_card_date_and_versions(tmp_path: Path) -> None:
    machine = this_machine("cpu")
    rows: tuple[Row, ...] = ({"model": "sd15", "it/s": 12.345}, {"model": "sdxl", "it/s": None})
    made = Report("engine", machine, rows, Plot("model", "it/s", "model", "model"))
    (tmp_path / "engine-sd15.json").write_text(made.json(), "utf-8")
    (tmp_path / "tests.log").write_text("...\n==== 20 passed in 3.00s ====\n", "utf-8")
    ended = [Ended("tests", 0, 3.0), Ended("engine-sd15", 0, 60.0), Ended("serve-http", None, 0.0, "no time was left")]
    summary = [{"name": one.name, "status": one.status, "seconds": one.seconds, "reason": one.reason} for one in ended]
    (tmp_path / SUMMARY).write_text(json.dumps(summary), "utf-8")
    document = tmp_path / "document.md"
    document.write_text("Before\n<!-- gpu -->\nold\n<!-- end -->\nAfter\n", "utf-8")
    write(tmp_path, document)
    text = document.read_text("utf-8")
    assert f"| sd15 | 12.3 | cpu | {machine.date} | torch {machine.torch}" in text
    assert "| sdxl |  | cpu |" in text
    assert "`tests`: status 0, 3 s; 20 passed in 3.00s" in text
    assert "`serve-http`: left out; no time was left" in text
    assert "old" not in text
    assert text.startswith("Before\n")
    assert text.endswith("After\n")
