"""The study as Fig. 6 and 7 of the paper have it: quality by training steps, and by throughput."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Plot


def plot(told: Mapping[str, Any], file: Path) -> None:
    """Draw what study.json holds: a line a factor, on the left over training steps, on the right over throughput."""
    drawn = Plot(figsize=(11, 4.5), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for one in told["factors"]:
        name = f"f = {one['factor']}"
        left.plot([int(s) for s in one["by_steps"]], list(one["by_steps"].values()), marker="o", label=name)
        points = list(one["by_sampling"].values())
        right.plot([speed for speed, _ in points], [value for _, value in points], marker="o", label=name)
    left.set(xlabel="training steps", ylabel="Fréchet distance (small classifier)", yscale="log")
    right.set(xlabel="pictures a second", ylabel="Fréchet distance (small classifier)")
    right.set_title("ddim steps along each line")
    if any(one["by_sampling"] for one in told["factors"]):
        right.set(xscale="log", yscale="log")
    left.legend()
    drawn.savefig(file)
