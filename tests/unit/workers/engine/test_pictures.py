"""Padding, pasting back and files: what must stay equal stays equal, byte by byte."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contract.common import OutputFormat
from contract.request import JobRequest, parse_request
from contract.uploads import Upload
from core.errors import JobFailed
from tests.enqueue import make_request
from workers.engine.pictures import (
    Frame,
    encode_picture,
    enlarge_alpha,
    mask_tensor,
    paste,
    picture_text,
    preview,
    to_picture,
    to_tensor,
)


def _noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values, mode)


def _request(**changes: object) -> JobRequest:
    fields: dict[str, object] = {
        "kind": "txt2img",
        "model": "tiny",
        "prompt": "ein Häuschen ❤",
        "width": 64,
        "height": 64,
        "steps": 4,
        "sampler": "ddim",
        "seed": 2**32 - 1,
        "num_images": 2,
    }
    return parse_request(fields | changes)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 8, 32]), st.sampled_from([1, 4]))
def test_crop_undoes_pad(width: int, height: int, stride: int, scale: int) -> None:
    frame = Frame(width, height, stride)
    x = torch.rand(1, 3, height, width)
    padded = frame.pad(x)
    assert padded.shape == (1, 3, frame.padded[1], frame.padded[0])
    assert padded.shape[2] % stride == padded.shape[3] % stride == 0
    larger = padded.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(frame.crop(larger, scale)[..., ::scale, ::scale], x)


def test_every_byte_survives_the_way_to_a_tensor_and_back() -> None:
    image = _noise(33, 17)
    assert to_picture(to_tensor(image)[0]).tobytes() == image.tobytes()
    assert to_picture(to_tensor(image.convert("RGBA"))[0]).tobytes() == image.tobytes()


def test_pixels_are_clamped_and_rounded() -> None:
    x = torch.tensor([-7.0, -1.0, 0.0, 0.999, 7.0]).repeat(3, 1, 1)
    assert np.array(to_picture(x))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_pixels_fail(value: float) -> None:
    x = torch.zeros(3, 4, 4)
    x[1, 2, 3] = value
    with pytest.raises(JobFailed, match="NaN"):
        to_picture(x)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["RGB", "RGBA"]), st.integers(0, 6), st.integers(1, 24))
def test_paste_changes_nothing_outside(seed: int, mode: str, feather: int, width: int) -> None:
    upload, painted = _noise(width, 19, mode, seed), _noise(width, 19, "RGB", seed + 1)
    inside = np.random.default_rng(seed + 2).random((19, width)) > 0.97
    inside[3, 0] = True
    pasted = np.array(paste(upload, painted, Image.fromarray(inside.astype(np.uint8) * 255), feather))
    ys, xs = np.nonzero(inside)
    grid = np.mgrid[:19, :width]
    distance = np.sqrt(((grid[0][..., None] - ys) ** 2 + (grid[1][..., None] - xs) ** 2).min(-1))
    assert np.array_equal(pasted[distance > feather], np.array(upload)[distance > feather])
    assert np.array_equal(pasted[inside], np.array(painted.convert(mode))[inside])
    near = (distance > 0) & (distance <= feather)
    share = (1 - distance[near] / (feather + 1))[:, None]
    old, new = np.array(upload)[near].astype(float), np.array(painted.convert(mode))[near].astype(float)
    alphas = share * 255, (1 - share) * (old[:, 3:] if mode == "RGBA" else 255)
    expected = (alphas[0] * new[:, :3] + alphas[1] * old[:, :3]) / sum(alphas)  # colours weigh as they are seen
    assert np.abs(pasted[near][:, :3] - expected).max(initial=0) < 0.51
    if mode == "RGBA":
        assert np.abs(pasted[near][:, 3:] - sum(alphas)).max(initial=0) < 0.51


def test_no_dark_edge_is_blended_into_transparency() -> None:
    upload, mask = Image.new("RGBA", (9, 1), (0, 0, 0, 0)), Image.new("L", (9, 1), 0)
    mask.putpixel((0, 0), 255)
    pasted = paste(upload, Image.new("RGB", (9, 1), "white"), mask, 4)
    assert [pasted.getpixel((x, 0)) for x in (1, 2, 3, 4)] == [(255, 255, 255, a) for a in (204, 153, 102, 51)]
    assert pasted.getpixel((5, 0)) == (0, 0, 0, 0)


def test_a_part_of_a_picture_of_any_size_is_what_pad_put_around() -> None:
    frame = Frame(70, 50, 64)  # within 128 × 64
    x = torch.arange(3 * 32 * 64).reshape(3, 32, 64)  # half as large as the padded one
    assert torch.equal(frame.part(x), x[:, 4:29, 14:49])


def test_alpha_is_kept_outside_and_opaque_inside() -> None:
    upload = Image.new("RGBA", (4, 1), (9, 8, 7, 0))
    mask = Image.new("L", (4, 1), 0)
    mask.putpixel((1, 0), 255)
    pasted = paste(upload, Image.new("RGB", (4, 1), "white"), mask, 0)
    assert [pasted.getpixel((x, 0)) for x in range(3)] == [(9, 8, 7, 0), (255, 255, 255, 255), (9, 8, 7, 0)]


def test_mask_tensor_is_zero_and_one() -> None:
    mask = Image.new("L", (2, 1), 255)
    mask.putpixel((0, 0), 0)
    assert mask_tensor(mask).tolist() == [[[[0.0, 1.0]]]]


def test_alpha_grows_with_the_picture() -> None:
    upload = _noise(5, 4, "RGBA")
    answer = enlarge_alpha(upload, Image.new("RGB", (20, 16), "red"))
    assert (answer.mode, answer.size, answer.getpixel((0, 0))[:3]) == ("RGBA", (20, 16), (255, 0, 0))  # type: ignore[index]
    assert enlarge_alpha(upload.convert("RGB"), Image.new("RGB", (20, 16))).mode == "RGB"


def test_previews_are_small_webp_even_of_nan() -> None:
    image = Image.open(io.BytesIO(preview(torch.full((3, 600, 300), float("nan")), 256)))
    assert (image.format, image.size) == ("WEBP", (128, 256))


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_lossless_files_keep_every_byte_also_under_transparency(output_format: OutputFormat) -> None:
    picture = _noise(21, 13, "RGBA")
    data = encode_picture(picture, output_format, {})
    assert Image.open(io.BytesIO(data)).tobytes() == picture.tobytes()
    assert encode_picture(picture, output_format, {}) == data


def test_jpeg_is_laid_on_white() -> None:
    data = encode_picture(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "jpeg", {})
    assert Image.open(io.BytesIO(data)).getpixel((4, 4)) == (255, 255, 255)


def test_png_carries_parameters_and_json() -> None:
    request = _request(negative_prompt="blurry", guidance_scale=4.0)
    text = picture_text(request, 1, "abcdef0123456789")
    png = Image.open(io.BytesIO(encode_picture(Image.new("RGB", (8, 8)), "png", text)))
    first, second, facts = png.info["parameters"].split("\n")
    assert (first, second) == ("ein Häuschen ❤", "Negative prompt: blurry")
    assert facts.startswith(
        "Steps: 4, Sampler: ddim, CFG scale: 4, Seed: 0, Size: 64x64, Model hash: abcdef0123, Model: tiny"
    )
    stored = json.loads(png.info["latentd"])
    assert stored["model_hash"] == "abcdef0123456789"
    assert parse_request(stored["request"]) == request
    changed = _request(schedule="karras", timesteps=(9, 3), guidance_interval=(0.25, 1.0))
    noted = picture_text(changed, 0, "abcdef0123456789")["parameters"]
    assert "Schedule type: karras, Timesteps: 9 3, Guidance interval: 0.25 1," in noted


def test_png_names_loras_and_embeddings_by_their_files() -> None:
    loras = [{"id": "dogs", "scale": 0.8, "hash": "a" * 64}, {"id": "ink", "scale": -1.0, "hash": "b" * 64}]
    embeddings = [{"name": "Bad-Hand", "hash": "c" * 64}]
    text = picture_text(make_request(loras=loras, embeddings=embeddings, clip_skip=2), 0, "f" * 64)
    assert f'Lora hashes: "dogs: {"a" * 12}, ink: {"b" * 12}", Lora scales: "dogs: 0.8, ink: -1"' in text["parameters"]
    assert "Clip skip: 2, Lora hashes" in text["parameters"]
    assert f'TI hashes: "Bad-Hand: {"c" * 12}"' in text["parameters"]
    stored = json.loads(text["latentd"])["request"]
    assert (stored["loras"], stored["embeddings"], stored["clip_skip"]) == (loras, embeddings, 2)
    assert "prompt_syntax" not in stored
    assert "ora" not in "".join(picture_text(make_request(), 0, "f" * 64).values())


def test_text_does_not_depend_on_where_uploads_lie() -> None:
    uploads = [Upload(path=f"uploads/{job}/image", sha256="0", bytes=1, width=1, height=1) for job in ("a", "b")]
    texts = [picture_text(_request(kind="upscale", image=upload), 0, "h") for upload in uploads]
    assert texts[0] == texts[1]
