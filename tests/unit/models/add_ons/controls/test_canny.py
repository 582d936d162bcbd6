"""Edges as ControlNets of that kind read them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.add_ons.controls.canny import edges


def test_edges_are_white_lines_where_brightness_jumps() -> None:
    picture = Image.new("RGBA", (64, 48), (0, 0, 0, 255))
    picture.paste((255, 255, 255, 0), (16, 16, 48, 32))
    found = edges(picture)
    pixels = np.asarray(found)
    assert (found.mode, found.size) == ("RGB", (64, 48))
    assert set(np.unique(pixels)) == {0, 255}
    rows, columns = np.nonzero(pixels[..., 0])
    assert {rows.min(), rows.max()} <= {15, 16, 31, 32}
    assert {columns.min(), columns.max()} <= {15, 16, 47, 48}
    assert not np.asarray(edges(Image.new("RGB", (64, 48), "red"))).any()
