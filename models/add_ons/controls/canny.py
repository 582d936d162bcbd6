"""Edges of a picture (Canny 1986), as ControlNets of that kind were trained on them."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

LOW, HIGH = 100, 200  # thresholds of the gradient, those of the authors' examples


def edges(picture: Image.Image) -> Image.Image:
    """Return white edges on black, RGB, of an RGB or RGBA picture; alpha is left out."""
    pixels = np.asarray(picture.convert("RGB"))  # H W 3
    found = cv2.Canny(pixels, LOW, HIGH)  # H W
    return Image.fromarray(found).convert("RGB")
