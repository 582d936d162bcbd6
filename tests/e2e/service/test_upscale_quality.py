"""Sixteen pictures that training never saw, reduced to 64² and upscaled over HTTP, against bicubic."""

from __future__ import annotations

import io
from statistics import mean

from PIL import Image

from core.pictures import lossless
from tests.pictures import SIZE, artwork, gradient, photographs, psnr
from tests.service import Service

BICUBIC = Image.Resampling.BICUBIC


def reduced(image: Image.Image) -> Image.Image:
    return image.resize((SIZE // 4, SIZE // 4), BICUBIC)


def upscaled(service: Service, small: Image.Image) -> Image.Image:
    files = {"image": ("small.png", lossless(small), "image/png")}
    headers = {"Accept": "image/png"}
    answer = service.client.post("/v1/upscale", data={"seed": "1"}, files=files, headers=headers)
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_artwork_gains_5_db_over_bicubic(service: Service) -> None:
    originals = artwork()
    ours = mean(psnr(upscaled(service, reduced(image)), image) for image in originals)
    bicubic = mean(psnr(reduced(image).resize(image.size, BICUBIC), image) for image in originals)
    assert ours >= bicubic + 5, (ours, bicubic)


def test_photographs_are_sharper_than_bicubic_and_within_2_db(service: Service) -> None:
    originals = photographs()
    answers = [upscaled(service, reduced(image)) for image in originals]
    bicubics = [reduced(image).resize(image.size, BICUBIC) for image in originals]
    ours = mean(psnr(a, image) for a, image in zip(answers, originals, strict=True))
    plain = mean(psnr(a, image) for a, image in zip(bicubics, originals, strict=True))
    assert ours >= plain - 2, (ours, plain)
    wanted = mean(map(gradient, originals))
    assert abs(mean(map(gradient, answers)) - wanted) < abs(mean(map(gradient, bicubics)) - wanted)
