"""What each task answers: sizes, bytes outside masks, alpha, strength, and models without mask channels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import InvalidRequest
from core.pictures import lossless
from models.checkpoints.load import assemble
from models.pipeline.pipeline import LatentDiffusion
from models.samplers import SAMPLERS
from tests.engines import (
    finished,
    inpaint,
    make_engine,
    make_request,
    mask_bytes,
    picture_bytes,
    play,
    tiny_models,
    upscale,
)
from tests.tiny import random_weights
from workers.engine.kinds import job_spec_of, prepare
from workers.engine.messages import Admission
from workers.engine.pictures import to_tensor
from workers.prompts import PROMPTS_KEPT, PromptCache


def _one(admission: Admission, models: dict[str, LatentDiffusion] | None = None) -> Image.Image:
    [picture] = finished(play(make_engine(models), [admission])).values()
    return picture


def _changed(before: bytes, after: Image.Image) -> tuple[int, int, int, int] | None:
    """Bounding box of the pixels that differ."""
    upload = np.array(Image.open(io.BytesIO(before)))
    return Image.fromarray((upload != np.array(after)).any(-1)).getbbox()


@settings(deadline=None, max_examples=12)
@given(st.integers(64, 130), st.integers(64, 130))
def test_any_size_is_answered(width: int, height: int) -> None:
    picture = _one(Admission("a", make_request(width=width, height=height, steps=1)))
    assert (picture.size, picture.mode) == ((width, height), "RGB")


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["RGB", "RGBA"]), st.integers(0, 3))
def test_inpainting_changes_nothing_outside_the_mask(width: int, height: int, mode: str, feather: int) -> None:
    image = picture_bytes(width, height, mode)
    box = (width // 3, height // 3, width // 3 + max(1, width // 4), height // 3 + max(1, height // 4))
    picture = _one(inpaint("a", image, mask_bytes(width, height, box), steps=1, feather=feather))
    assert (picture.size, picture.mode) == ((width, height), mode)
    left, top, right, bottom = _changed(image, picture) or box
    assert left >= box[0] - feather
    assert top >= box[1] - feather
    assert right <= box[2] + feather
    assert bottom <= box[3] + feather


def test_inpainting_is_opaque_inside_and_keeps_alpha_outside() -> None:
    upload = Image.new("RGBA", (70, 50), (10, 20, 30, 0))
    picture = _one(inpaint("a", lossless(upload), mask_bytes()))
    assert picture.getpixel((9, 9)) == (10, 20, 30, 0)
    assert {alpha for _, alpha in picture.crop((10, 10, 40, 30)).convert("LA").getcolors() or []} != {0}
    assert picture.getchannel("A").crop((10, 10, 40, 30)).getextrema() == (255, 255)


def test_exif_rotation_comes_before_all_else() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture_bytes(70, 50))).save(buffer, "PNG", exif=exif)
    assert _one(inpaint("a", buffer.getvalue(), mask_bytes(50, 70))).size == (50, 70)


def test_a_thin_line_reaches_the_unet() -> None:
    line = mask_bytes(64, 64, (0, 13, 64, 14))
    admission = inpaint("a", picture_bytes(64, 64), line)
    spec = job_spec_of(admission.request, admission.pictures, tiny_models()["paint"], 1 << 20)
    concat = prepare(spec, PromptCache()).inputs.concat
    assert concat is not None
    assert concat[0].sum(1).tolist() == [0, 8, 0, 0, 0, 0, 0, 0]
    # Of the picture nothing but the line itself is hidden.
    image = to_tensor(spec.pictures["image"])
    image[:, :, 13] = 0.0
    assert torch.equal(concat[1:], tiny_models()["paint"].encode_images(image)[0])


def test_strength_keeps_more_of_the_picture_the_lower_it_is() -> None:
    steps = []
    for strength in (1.0, 0.5, 0.05):
        admission = inpaint("a", picture_bytes(64, 64), mask_bytes(64, 64), steps=8, strength=strength)
        spec = job_spec_of(admission.request, admission.pictures, tiny_models()["paint"], 1 << 20)
        conditions = prepare(spec, PromptCache())
        assert (conditions.latent is None) == (strength == 1.0)
        steps.append(spec.plan.steps)
        assert _one(admission).size == (64, 64)
    assert steps == [8, 4, 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_paints_repaints_and_enlarges(sampler: str) -> None:
    jobs = [
        Admission("t", make_request(sampler=sampler, steps=3)),
        inpaint("i", picture_bytes(), mask_bytes(), sampler=sampler, steps=3, num_images=2),
        upscale("u", picture_bytes(20, 12), sampler=sampler, steps=3),
    ]
    pictures = finished(play(make_engine(), jobs))
    assert {key: picture.size for key, picture in pictures.items()} == {
        ("t", 0): (64, 64),
        ("i", 0): (70, 50),
        ("i", 1): (70, 50),
        ("u", 0): (80, 48),
    }


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["RGB", "RGBA"]))
def test_upscaling_answers_four_times_the_size(width: int, height: int, mode: str) -> None:
    picture = _one(upscale("a", picture_bytes(width, height, mode), steps=1))
    assert (picture.size, picture.mode) == ((4 * width, 4 * height), mode)


def test_an_answer_with_too_many_pixels_is_refused() -> None:
    admission = upscale("a", picture_bytes(33, 32))
    with pytest.raises(InvalidRequest) as caught:
        job_spec_of(admission.request, admission.pictures, tiny_models()["up"], 16 * 32 * 32)
    assert (caught.value.value, caught.value.bound) == ("132×128", 16_384)


def _four_channels() -> LatentDiffusion:
    paint = tiny_models()["paint"]
    config = replace(paint.config, concat=None, unet=replace(paint.config.unet, in_channels=4))
    return assemble(random_weights(config, 3, *paint.tokenizers), "paint")


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_models_without_mask_channels_keep_the_known_latent(strength: float) -> None:
    model = _four_channels()
    engine = make_engine({"paint": model})
    admission = inpaint("a", picture_bytes(64, 64), mask_bytes(64, 64, (0, 0, 32, 64)), strength=strength)
    spec = job_spec_of(admission.request, admission.pictures, model, 1 << 24)
    with torch.inference_mode():
        known = prepare(spec, PromptCache()).known
    assert known is not None
    engine.admit(admission)
    position, z_t = 0, known.latent
    while position < len(spec.plan.rows):
        engine.turn()
        state = safetensors.torch.load(engine.snapshot("a") or b"")
        position, z_t = int(state["0.position"].item()), state["0.latents"][0]
    kept = known.hole[0] == 0
    assert int(kept.sum()) == 32
    assert torch.equal(z_t[:, kept], known.latent[:, kept])
    assert not torch.equal(z_t[:, ~kept], known.latent[:, ~kept])
    assert ("a", 0) in finished(play(engine))


def test_text_to_image_works_on_four_channels_too() -> None:
    assert _one(Admission("a", make_request()), {"paint": _four_channels()}).size == (64, 64)


def test_prompts_are_encoded_once_and_only_so_many_kept() -> None:
    model, cache = tiny_models()["paint"], PromptCache()
    first = cache.encoded(model, "red heart")
    assert cache.encoded(model, "red heart") is first
    for number in range(PROMPTS_KEPT):
        cache.encoded(model, str(number))
    assert len(cache.kept) == PROMPTS_KEPT
    assert cache.encoded(model, "red heart") is not first
    assert torch.equal(cache.encoded(model, "red heart").context, first.context)
