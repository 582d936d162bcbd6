"""The engine on the committed weights: what they can do, they do here too."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from core.pictures import lossless
from core.settings import WEIGHTS_DIR
from models.checkpoints.load import load
from models.pipeline.pipeline import LatentDiffusion
from tests.engines import finished, inpaint, make_engine, make_request, play, upscale
from workers.engine.messages import Admission, Called


@cache
def _models() -> dict[str, LatentDiffusion]:
    return {name: load(WEIGHTS_DIR / name) for name in ("emoji", "emoji-upscale")}


def _pixels(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture, dtype=np.float64)


def _psnr(a: Image.Image, b: Image.Image) -> float:
    return float(10 * np.log10(255**2 / np.mean((_pixels(a) - _pixels(b)) ** 2)))


def test_a_red_heart_beside_a_repainted_picture_in_the_same_calls() -> None:
    drawn = {"model": "emoji", "width": 256, "height": 256, "steps": 5, "seed": 1}
    upload = Image.new("RGB", (250, 240), "navy")
    mask = Image.new("L", upload.size, 0)
    mask.paste(255, (60, 40, 180, 180))
    jobs = [
        Admission("heart", make_request(**drawn | {"prompt": "red heart"})),
        inpaint("hole", lossless(upload), lossless(mask), **drawn | {"prompt": "yellow star on a navy background"}),
    ]
    outcomes = play(make_engine(_models()), jobs)
    heart, hole = (_pixels(finished(outcomes)[name, 0]) for name in ("heart", "hole"))
    red, green, blue = heart[108:148, 108:148].mean((0, 1))
    assert red > 180 > 100 > max(green, blue)
    assert min(heart[y : y + 16, x : x + 16].mean() for y in (0, 240) for x in (0, 240)) > 230
    assert np.array_equal(hole[:40], _pixels(upload)[:40])
    assert hole.shape == (240, 250, 3)
    assert [o.rows for o in outcomes if isinstance(o, Called)] == [4] * 5


def test_upscaled_artwork_is_sharper_than_bicubic() -> None:
    original = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(original)
    draw.ellipse((30, 30, 226, 226), fill=(255, 204, 77), outline=(102, 69, 0), width=6)
    draw.ellipse((80, 90, 110, 130), fill=(102, 69, 0))
    draw.ellipse((146, 90, 176, 130), fill=(102, 69, 0))
    small = original.resize((64, 64), Image.Resampling.BICUBIC)
    job = upscale("a", lossless(small), model="emoji-upscale", steps=8)
    [answer] = finished(play(make_engine(_models()), [job])).values()
    assert _psnr(answer, original) > 5 + _psnr(small.resize((256, 256), Image.Resampling.BICUBIC), original)
