"""The default weights far from their training size: a repair and an enlargement at 1024 pixels, in bounded memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
from PIL import Image

import models
from core.pictures import lossless
from models.checkpoints.load import load
from models.pipeline.pipeline import TILE, LatentDiffusion
from tests.engines import NOWHERE, admitted, finished, inpaint, make_request, play
from tests.pictures import array, drawing
from workers.engine.engine import Engine
from workers.engine.messages import Admission

LIMIT = 6 * 2**20  # KiB
WEIGHTS = Path(models.__file__).parent / "weights"


def drawn(model: LatentDiffusion, job: Admission) -> Image.Image:
    engine = Engine({model.id: model}, device="cpu", threads=os.cpu_count() or 1, max_rows=16, strict_rows=4)
    [picture] = finished(play(engine, [job])).values()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < LIMIT
    return picture


def steepness(picture: Image.Image, original: Image.Image, axis: int) -> np.ndarray:
    """By column or row: how much more the picture changes there than the original does."""
    change = np.abs(np.diff(array(picture), axis=axis) - np.diff(array(original), axis=axis))
    return np.asarray(change.mean(axis=(1 - axis, 2)))


def test_a_picture_is_enlarged_to_1024_pixels_without_seams() -> None:
    original = drawing(3).resize((1024, 1024), Image.Resampling.LANCZOS)
    small = original.resize((256, 256), Image.Resampling.BICUBIC)
    fields = {"kind": "upscale", "model": "emoji-upscale", "prompt": "", "guidance_scale": 1.0, "steps": 1}
    job = admitted("a", make_request(**fields, image=NOWHERE), {"image": lossless(small)})
    picture = drawn(load(WEIGHTS / "emoji-upscale"), job)
    assert picture.size == original.size
    for axis in (0, 1):
        found = steepness(picture, original, axis)
        around = np.r_[found[TILE - 9 : TILE - 1], found[TILE : TILE + 8]]
        assert found[TILE - 1] < 2 * around.mean() + 0.5


def test_a_part_of_1024_pixels_is_repainted_and_nothing_else() -> None:
    before = drawing(4).resize((1024, 1024), Image.Resampling.LANCZOS)
    mask = Image.new("L", before.size)
    mask.paste(255, (480, 480, 620, 560))
    job = inpaint("a", lossless(before), lossless(mask), model="emoji", steps=1, guidance_scale=1.0)
    after = drawn(load(WEIGHTS / "emoji"), job)
    changed = (array(before) != array(after)).any(-1)
    assert changed[480:560, 480:620].mean() > 0.5
    changed[480:560, 480:620] = False
    assert not changed.any()
