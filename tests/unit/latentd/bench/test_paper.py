"""`latentd bench paper`: the paper's models, by their sizes, and ratios of what was measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from core.settings import Settings
from latentd.bench.paper import Plan, bench
from latentd.bench.paper_models import (
    BASELINE,
    ENTRIES,
    INPAINTING,
    INPAINTING_PIXELS,
    KL_F4,
    PIXELS,
    SUPER_RESOLUTION,
    VQ_F4,
    VQ_F4_NO_ATTENTION,
)
from latentd.cli import main
from models.networks.autoencoder import Autoencoder, AutoencoderConfig
from models.networks.unet import UNet, UNetConfig


def millions_of(make: Callable[[], nn.Module]) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters()) / 1e6


@pytest.mark.parametrize(
    ("unet", "millions"), [(INPAINTING, 215.2), (INPAINTING_PIXELS, 220.5), (SUPER_RESOLUTION, 113.6)]
)
def test_unets_have_the_paper_s_parameters(unet: UNetConfig, millions: float) -> None:
    assert millions_of(lambda: UNet(unet)) == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(("config", "millions"), [(KL_F4, 55.3), (VQ_F4, 55.3), (VQ_F4_NO_ATTENTION, 53.2)])
def test_first_stages_have_the_paper_s_parameters(config: AutoencoderConfig, millions: float) -> None:
    assert millions_of(lambda: Autoencoder(config)) == pytest.approx(millions, abs=0.1)


def test_the_model_over_pixels_has_no_first_stage() -> None:
    model = next(entry for entry in ENTRIES if entry.config.first_stage is PIXELS).load(
        "cpu", torch.float32, small=True
    )
    x = torch.rand(1, 3, 16, 16)
    assert model.latent_factor == 1
    assert torch.equal(model.decode(model.encode_images(x)), x)


def test_every_row_stands_beside_the_paper_s_figure() -> None:
    plan = Plan(batch=1, steps=1, rounds=1, budget_s=100.0, tiny=True)
    report = bench(Settings(threads=1, dtype="float32"), plan, "cpu", lambda: None)
    assert [row["model"] for row in report.rows] == [entry.model for entry in ENTRIES]
    base, first = report.rows[0], report.rows[1]
    assert (base["model"], base["× LDM-1"], base["× LDM-1 in the paper"]) == (BASELINE, 1.0, 1.0)
    assert first["× LDM-1 in the paper"] == pytest.approx(0.97 / 0.26)
    assert first["× LDM-1"] == pytest.approx(float(first["samples/s"] or 0) / float(base["samples/s"] or 1))
    assert report.rows[-1]["× LDM-1"] is None


def test_the_command_writes_json_and_plot_and_names_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, plot = tmp_path / "paper.json", tmp_path / "paper.svg"
    options = [
        "--tiny",
        "--steps",
        "1",
        "--budget",
        "0",
        "--device",
        "cpu",
        "--json",
        str(json_file),
        "--plot",
        str(plot),
    ]
    monkeypatch.setattr(sys, "argv", ["latentd", "bench", "paper", *options])
    monkeypatch.setenv("LATENTD_THREADS", "1")
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    found = json.loads(json_file.read_text("utf-8"))
    assert found["bench"] == "paper"
    assert len(found["rows"]) < len(ENTRIES)
    assert "LDM-4 SR @256" in found["notes"][-1]
    assert "<svg" in plot.read_text("utf-8")
    assert "samples/s" in capsys.readouterr().out
