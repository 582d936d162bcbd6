"""Masks that inpainting models are trained on: the box of a thing, or a few rectangles and ellipses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.training.data.pictures import Box

OF_THINGS = 0.35  # of the masks cover a whole thing, where one is known: what a caption names can then be put in
MORE = (1.0, 0.6, 0.35)  # chances of a first, second and third shape
SIDES = (0.12, 0.7)  # of the canvas


def draw_mask(size: int, box: Box | None, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a mask H W, 1 where it is to be repainted."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    if box is not None and rng.random() < OF_THINGS:
        grow = rng.uniform(-0.02, 0.06)
        left, top, right, bottom = box
        inside = (x > left - grow) & (x < right + grow) & (y > top - grow) & (y < bottom + grow)
        return np.asarray(inside, np.uint8)
    mask = np.zeros((size, size), bool)
    for chance in MORE:
        if rng.random() < chance:
            mask |= _shape(x, y, rng)
    return np.asarray(mask, np.uint8)


def _shape(x: NDArray[Any], y: NDArray[Any], rng: np.random.Generator) -> NDArray[np.bool_]:
    width, height = rng.uniform(*SIDES, 2)
    dx, dy = np.abs(x - rng.random()) * 2 / width, np.abs(y - rng.random()) * 2 / height
    inside: NDArray[np.bool_] = (dx**2 + dy**2 < 1) if rng.random() < 0.5 else (np.maximum(dx, dy) < 1)
    return inside
