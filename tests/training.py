"""A data set of coloured balls and tiny runs on it, for tests that train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from models.training.configs.autoencoder import AutoencoderRun
from models.training.configs.diffusion import LdmRun, UpscalerRun
from models.training.diffusion.run import run_diffusion
from models.training.first_stage.run import run_autoencoder
from models.training.loop.logbook import read_log

COLOURS = ("red", "green", "blue")
SIZE = 32


def write_balls(folder: Path, count: int = 12) -> Path:
    """Balls of three colours on white, with caption, label and label map in metadata.jsonl. Returns `folder`."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for i in range(count):
        colour, side = COLOURS[i % 3], 14 + i
        picture, label_map = Image.new("RGB", (SIZE, SIZE), "white"), Image.new("L", (SIZE, SIZE), 0)
        for image, fill in ((picture, colour), (label_map, 1 + i % 3)):
            left = (SIZE - side) // 2
            ImageDraw.Draw(image).ellipse((left, left, left + side, left + side), fill=fill)
        picture.save(folder / f"{i:02}.png")
        label_map.save(folder / f"{i:02}-map.png")
        row = {"file_name": f"{i:02}.png", "text": f"{colour} ball", "label": colour, "map": f"{i:02}-map.png"}
        rows.append(row | {"weight": 1.0 + i})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def autoencoder_run(folder: Path, **changes: Any) -> AutoencoderRun:
    """A first stage with f = 4 on `folder / data`, written to `folder / first`."""
    fields: dict[str, Any] = dict(
        out=folder / "first",
        steps=12,
        batch=4,
        data={"folder": folder / "data", "size": SIZE},
        optimizer={"learning_rate": 4e-3, "warmup": 5},
        autoencoder={"channels": (8, 8, 16), "z_channels": 3, "norm_groups": 1},
        losses={"perceptual": 0.0, "adversarial": 0.0},
        precision="float32",
        ema=0.9,
        start="pass-through",
        save_every=4,
        log_every=1,
        sample_every=1000,
    )
    return AutoencoderRun.model_validate(fields | changes)


def ldm_run(folder: Path, **changes: Any) -> LdmRun:
    """Latent diffusion on the first stage of `folder / first`, written to `folder / ldm`."""
    return LdmRun.model_validate(_diffusion(folder) | changes)


def upscaler_run(folder: Path, **changes: Any) -> UpscalerRun:
    """Super-resolution by the same first stage, written to `folder / up`."""
    return UpscalerRun.model_validate(_diffusion(folder) | {"out": folder / "up"} | changes)


def _diffusion(folder: Path) -> dict[str, Any]:
    return dict(
        out=folder / "ldm",
        steps=12,
        batch=4,
        data={"folder": folder / "data", "size": SIZE},
        optimizer={"learning_rate": 4e-3, "warmup": 5},
        first_stage=folder / "first" / "first_stage",
        unet={"channels": (16, 32), "heads": 2, "norm_groups": 4, "attention": (1,)},
        cache={"folder": folder / "cache"},
        precision="float32",
        ema=0.95,
        min_weight=0.05,
        save_every=4,
        log_every=1,
        sample_every=1000,
        sample_steps=4,
        guidance_scale=1.0,
    )


def train(run: AutoencoderRun | LdmRun | UpscalerRun, until: int | None = None) -> list[float]:
    """Train, or stop after step `until`. Returns the losses of all steps so far, as the log has them."""
    seen: list[int] = []

    def stop() -> bool:
        return until is not None and bool(seen) and seen[-1] >= until

    def report(progress: Any) -> None:
        if progress.what == "steps":
            seen.append(progress.step)

    if isinstance(run, AutoencoderRun):
        run_autoencoder(run, "cpu", report=report, stop=stop)
    else:
        run_diffusion(run, "cpu", report=report, stop=stop)
    return losses(run.out)


def losses(out: Path) -> list[float]:
    """The losses of a run's log, in order of their steps."""
    return [line["loss"] for line in read_log(out) if "loss" in line]
