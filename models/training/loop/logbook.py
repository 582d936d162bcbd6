"""What a run tells: one JSON line a logged step, the same in TensorBoard's files, a plot and grids of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from einops import rearrange
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

LOG, PLOT, SAMPLES, TENSORBOARD = "log.jsonl", "loss.png", "samples", "tensorboard"
COLUMNS = 8  # of a grid
MEASURED = "held out: "  # prefix of what is measured on pictures that training doesn't see


class Logbook:
    """The log of one run, from `step` on: what a killed run wrote beyond its last state is taken out."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
        self._keep_before(step)
        self.writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=step)

    def _keep_before(self, step: int) -> None:
        kept = [line for line in read_log(self.folder) if line["step"] < step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        unfinished = self.folder / f".{LOG}"
        unfinished.write_text(text, "utf-8")
        unfinished.replace(self.folder / LOG)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, pictures: Tensor) -> None:
        """Write a grid of pictures b 3 H W in [−1, 1]."""
        grid = grid_of(pictures)
        Image.fromarray(grid).save(self.folder / SAMPLES / f"{step:07d}.png")
        self.writer.add_image("samples", grid, step, dataformats="HWC")

    def plot(self) -> None:
        """Draw the losses and measures so far over the steps."""
        lines = read_log(self.folder)
        all_names = dict.fromkeys(name for line in lines for name in line)
        names = [name for name in all_names if "loss" in name or name.startswith(MEASURED)]
        if not names:
            return
        figure = Figure(figsize=(8, 2.4 * len(names)), layout="constrained")
        for axes, name in zip(figure.subplots(len(names), squeeze=False)[:, 0], names, strict=True):
            axes.plot([line["step"] for line in lines if name in line], [line[name] for line in lines if name in line])
            axes.set(xlabel="step", ylabel=name)
        figure.savefig(self.folder / PLOT)

    def close(self) -> None:
        """Write what is buffered."""
        self.writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log; a last line that a killed run left unfinished is none."""
    file = folder / LOG
    if not file.is_file():
        return []
    lines = file.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def grid_of(pictures: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Lay pictures b 3 H W in [−1, 1] out in rows of at most eight: H·r W·8 3, uint8; empty places are white."""
    x = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    columns = min(COLUMNS, len(x))
    missing = -len(x) % columns
    if missing:
        x = np.concatenate([x.numpy(), np.full((missing, *x.shape[1:]), 255, np.uint8)])  # type: ignore[assignment]
    grid = rearrange(np.asarray(x), "(r q) c h w -> (r h) (q w) c", q=columns)
    return np.ascontiguousarray(grid)
