"""Both stages learn and resume: on a GPU in bfloat16, compiled; pictures and latents come from helper processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoints.inspect import inspect
from models.training.diffusion.run import run_diffusion
from models.training.first_stage.run import run_autoencoder
from tests.gpu.devices import DEVICES
from tests.training import autoencoder_run, ldm_run, losses, write_balls

STEPS = 16


@pytest.mark.parametrize("device", DEVICES)
def test_both_stages_learn_and_resume(tmp_path: Path, device: str) -> None:
    write_balls(tmp_path / "data", count=24)
    shared = {
        "data": {"folder": tmp_path / "data", "size": 32, "workers": 2},
        "precision": "auto",
        "batch": 4,
        "steps": STEPS,
        "save_every": STEPS,
    }
    first = autoencoder_run(
        tmp_path, losses={"perceptual": 0.0, "adversarial": 0.1, "adversarial_from": 0.75}, compile="never", **shared
    )
    told: list[int] = []
    stopped = run_autoencoder(first, device, report=lambda p: told.append(p.step), stop=lambda: told[-1] == STEPS // 2)
    assert not stopped
    assert run_autoencoder(first, device, report=lambda _: None, stop=lambda: False)
    assert _fell(losses(first.out))
    text = {"kind": "text", "width": 64, "layers": 1, "heads": 2, "window": 8, "trained": True}
    compiled = "never" if device == "cpu" else "always"
    second = ldm_run(tmp_path, condition=text, concat="mask-latent", compile=compiled, **shared)
    seen = [0]
    stopped = run_diffusion(second, device, report=lambda p: seen.append(p.step), stop=lambda: seen[-1] == STEPS // 2)
    assert not stopped
    assert run_diffusion(second, device, report=lambda _: None, stop=lambda: False)
    assert _fell(losses(second.out))
    assert "inpaint" in inspect(second.out / "checkpoint").tasks


def _fell(seen: list[float]) -> bool:
    quarter = STEPS // 4
    return len(seen) == STEPS and sum(seen[-quarter:]) < sum(seen[:quarter])
