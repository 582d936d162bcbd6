"""Random masks as LaMa's evaluation draws them (Suvorov et al. 2022, App. C): thin, medium and thick, by seed.

A mask is either chains of brush strokes or, in a share of the masks, boxes. Lengths are pixels of a picture of 256 and
grow with it. Masks of more than half of the picture are drawn anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from models.training.loop.draws import generator

SIDE = 256  # pixels that the lengths below are of
LARGEST = 0.5  # of the picture
CHAIN = 5  # strokes at most
TURNS = 4  # directions that a stroke may take: 0, 1, 2 or 3 radians
SHORTEST, NARROWEST = 10, 5  # pixels of a stroke
TRIES = 100


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of `smallest` to `largest` pixels a side, `margin` from the edges."""

    count: tuple[int, int]
    smallest: int
    largest: int
    margin: int


@dataclass(frozen=True, slots=True)
class MaskKind:
    """Chains of strokes up to `length` longer and `width` wider than the least; or boxes, as often as 0.3 to 1."""

    chains: tuple[int, int]
    length: int
    width: int
    boxes: Boxes | None = None


KINDS = {
    "thin": MaskKind((4, 50), 40, 10),
    "medium": MaskKind((4, 5), 100, 50, Boxes((1, 5), 10, 50, 0)),
    "thick": MaskKind((1, 5), 200, 100, Boxes((1, 3), 30, 150, 10)),
}
BOXED = 0.3 / 1.3  # of the masks of kinds that have boxes


def draw_masks(kind: str, size: int, count: int, seed: int) -> Tensor:
    """Draw masks b 1 H W, 1 where it is to be repainted; each is a function of kind, size, seed and its number."""
    return torch.stack([_mask(kind, size, generator(seed, f"{kind} mask", i)) for i in range(count)])[:, None]


def _mask(kind: str, size: int, rng: np.random.Generator) -> Tensor:
    told = KINDS[kind]
    for _ in range(TRIES):
        canvas = Image.new("1", (size, size))
        pen, scale = ImageDraw.Draw(canvas), size / SIDE
        if told.boxes is not None and rng.random() < BOXED:
            _draw_boxes(pen, told.boxes, size, scale, rng)
        else:
            _draw_chains(pen, told, size, scale, rng)
        mask = torch.from_numpy(np.asarray(canvas, np.float32).copy())
        if 0 < float(mask.mean()) <= LARGEST:
            return mask
    raise RuntimeError(f"no {kind} mask of {size} pixels was small enough in {TRIES} tries")


def _draw_chains(pen: ImageDraw.ImageDraw, kind: MaskKind, size: int, scale: float, rng: np.random.Generator) -> None:
    for i in range(int(rng.integers(kind.chains[0], kind.chains[1] + 1))):
        x, y = (float(v) for v in rng.integers(size, size=2))
        for _ in range(int(rng.integers(1, CHAIN + 1))):
            angle = float(rng.integers(TURNS)) * (1 if i % 2 else -1)
            length = (SHORTEST + int(rng.integers(kind.length))) * scale
            width = (NARROWEST + int(rng.integers(kind.width))) * scale
            end = (_within(x + length * math.sin(angle), size), _within(y + length * math.cos(angle), size))
            pen.line([(x, y), end], fill=1, width=max(1, round(width)))
            x, y = end


def _draw_boxes(pen: ImageDraw.ImageDraw, boxes: Boxes, size: int, scale: float, rng: np.random.Generator) -> None:
    margin = round(boxes.margin * scale)
    for _ in range(int(rng.integers(boxes.count[0], boxes.count[1] + 1))):
        sides = [max(1, round(scale * int(rng.integers(boxes.smallest, boxes.largest)))) for _ in range(2)]
        left, top = (int(rng.integers(margin, size - margin - side + 1)) for side in sides)
        pen.rectangle((left, top, left + sides[0] - 1, top + sides[1] - 1), fill=1)


def _within(value: float, size: int) -> float:
    return min(max(value, 0.0), float(size))
