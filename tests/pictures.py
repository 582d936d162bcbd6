"""Pictures that no checkpoint was trained on: drawings made here, photographs from scikit-image."""

from __future__ import annotations

import colorsys
import math
import random
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 256
OVERSAMPLED = 4 * SIZE
PHOTOGRAPHS = ("camera", "chelsea", "coins", "cell", "ihc", "motorcycle_left", "motorcycle_right", "page")


def drawing(seed: int) -> Image.Image:
    """A flat, emoji-like drawing: a large shape with an outline and a few parts on white, antialiased."""
    rng = random.Random(seed)
    image = Image.new("RGB", (OVERSAMPLED, OVERSAMPLED), "white")
    draw = ImageDraw.Draw(image)
    hue, middle, radius = rng.random(), OVERSAMPLED // 2, int(OVERSAMPLED * rng.uniform(0.34, 0.46))
    outline = colour(hue, 0.8, 0.45)
    box = (middle - radius, middle - radius, middle + radius, middle + radius)
    if seed % 2:
        draw.ellipse(box, colour(hue, 0.7, 0.95), outline, 24)
    else:
        draw.polygon(star(middle, radius, rng.randint(5, 9)), colour(hue, 0.7, 0.95), outline, 24)
    for _ in range(6):
        add_part(draw, rng, middle, radius)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def add_part(draw: ImageDraw.ImageDraw, rng: random.Random, middle: int, radius: int) -> None:
    """An eye, a mouth, a spot: something small in a colour of its own."""
    x, y = (middle + int(rng.uniform(-0.55, 0.55) * radius) for _ in range(2))
    size = int(radius * rng.uniform(0.08, 0.22))
    fill = colour(rng.random(), 0.6, rng.uniform(0.2, 1.0))
    if rng.random() < 0.5:
        draw.ellipse((x - size, y - size, x + size, y + size), fill)
    else:
        draw.arc((x - 2 * size, y - size, x + 2 * size, y + size), 10, 170, fill, 28)


def colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def star(middle: int, radius: int, points: int) -> list[tuple[float, float]]:
    """Corners of a star with `points` rays."""
    corners = []
    for k in range(2 * points):
        r, angle = radius * (1.0 if k % 2 else 0.55), math.pi * k / points
        corners.append((middle + r * math.cos(angle), middle + r * math.sin(angle)))
    return corners


def artwork() -> list[Image.Image]:
    return [drawing(seed) for seed in range(8)]


def photographs() -> list[Image.Image]:
    """The middle square of each, at 256²."""
    folder = Path(skimage.__file__).parent / "data"
    return [square(Image.open(folder / f"{name}.png").convert("RGB")) for name in PHOTOGRAPHS]


def square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all channels."""
    mse = float(np.mean((array(a) - array(b)) ** 2))
    return 10 * math.log10(255**2 / mse)


def gradient(image: Image.Image) -> float:
    """Mean absolute difference of neighbours, over both directions: how sharp a picture is."""
    x = array(image)
    return float(np.abs(np.diff(x, axis=0)).mean() + np.abs(np.diff(x, axis=1)).mean())


def array(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB"), np.float64)
