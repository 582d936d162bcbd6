"""Peaks of memory, measured in processes of their own: loading holds no weight twice, inspecting reads no weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.unit.models.checkpoints.compvis_keys import random_state, sd_shapes

MB = 2**20
MEASURED = """
import resource, sys
from pathlib import Path
import models.checkpoints.inspect, models.checkpoints.load, models.networks.text_encoders, models.checkpoints.scan
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
path, before = Path(sys.argv[2]), peak()
if sys.argv[1] == "load":
    model = models.checkpoints.load.load(path)
    nets = (model.unet, model.first_stage, model.conditioner)
    print(peak() - before, sum(p.nbytes for net in nets for p in net.state_dict().values()))
else:
    models.checkpoints.inspect.inspect(path)
    print(peak() - before, 0)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Some 250 MB, half of them the text tower's."""
    folder = tmp_path_factory.mktemp("memory")
    state = random_state(sd_shapes(width=64, context=1024, heads=1, open_clip=True))
    save_file(state, folder / "half.safetensors")
    save_file({key: value.float() for key, value in state.items()}, folder / "full.safetensors")
    torch.save({"state_dict": state}, folder / "half.ckpt")
    torch.save({"state_dict": state}, folder / "old.ckpt", _use_new_zipfile_serialization=False)
    return {path.name: path for path in folder.iterdir()}


def measured(what: str, path: Path) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", MEASURED, what, str(path)], capture_output=True, text=True, check=True)
    peak, resident = map(int, done.stdout.split())
    return peak, resident


@pytest.mark.parametrize("name", ["full.safetensors", "half.ckpt"])
def test_loading_holds_no_weight_twice(name: str, files: dict[str, Path]) -> None:
    peak, resident = measured("load", files[name])
    assert peak <= 1.2 * max(resident, files[name].stat().st_size) + 40 * MB, (peak / MB, resident / MB)


@pytest.mark.parametrize("name", ["full.safetensors", "old.ckpt"])
def test_inspecting_reads_no_weights(name: str, files: dict[str, Path]) -> None:
    peak, _ = measured("inspect", files[name])
    assert peak <= 0.3 * files[name].stat().st_size + 100 * MB, peak / MB
    assert peak <= 100 * MB
