"""Every kind of checkpoint draws what it is for: classes, label maps, noise levels, inpainting recipes, img2img."""

from __future__ import annotations

import io
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from contract.request import REQUESTS
from core.errors import InvalidRequest
from core.pictures import lossless
from models.checkpoints.load import load
from models.networks.conditioning import SpatialRescaler
from models.pipeline.pipeline import LatentDiffusion
from models.samplers.noise import noise
from models.schedule import NoiseSchedule
from tests.engines import admitted, finished, inpaint, make_engine, make_request, mask_bytes, picture_bytes, play
from tests.tiny import CLASSES, LAYOUT_VOCABULARY, MAP_CLASSES, configs, write_tiny
from workers.engine.conditioning import LOW_RES, Conditions, of_image
from workers.engine.job_spec import JobSpec
from workers.engine.kinds import job_spec_of, prepare
from workers.engine.messages import Admission
from workers.engine.pictures import to_tensor
from workers.prompts import PromptCache

NATIVE = 64
LAID_OUT = (3, 12, 57, *(LAYOUT_VOCABULARY - 1,) * 6, 0, 99)  # one box, no others, and the whole of it


@lru_cache
def model_of(kind: str) -> LatentDiffusion:
    with tempfile.TemporaryDirectory() as folder:
        return load(write_tiny(kind, Path(folder) / kind))


def admission(kind: str, model: str, image: bytes | None = None, **changes: object) -> Admission:
    fields: dict[str, object] = {"kind": kind, "model": model, "guidance_scale": 1.0, "steps": 2, "prompt": ""}
    known = {name: value for name, value in fields.items() if name in REQUESTS[kind].model_fields}
    return admitted("a", make_request(**known | changes), {} if image is None else {"image": image})


def prepared(job: Admission) -> tuple[JobSpec, Conditions]:
    spec = job_spec_of(job.request, job.pictures, model_of(job.request.model), 1 << 24)
    return spec, prepare(spec, PromptCache())


def drawn(*jobs: Admission) -> list[Image.Image]:
    models = {job.request.model: model_of(job.request.model) for job in jobs}
    return list(finished(play(make_engine(models), jobs)).values())


def label_map(width: int, height: int) -> bytes:
    values = np.arange(width * height, dtype=np.uint8).reshape(height, width) % MAP_CLASSES
    return lossless(Image.fromarray(values))


@pytest.mark.parametrize("kind", [kind for kind in configs() if configs()[kind].concat is None])
def test_text_and_unconditional_models_draw_without_a_picture(kind: str) -> None:
    config = configs()[kind]
    task = "layout2img" if config.layout else "txt2img" if config.classes is None else "class2img"
    own: dict[str, dict[str, Any]] = {"class2img": {"class_id": 0}, "layout2img": {"tokens": LAID_OUT}}
    [picture] = drawn(admission(task, kind, width=96, height=72, **own.get(task, {})))
    assert picture.size == (96, 72)


def test_classes_differ_and_guidance_leads_away_from_the_null_class() -> None:
    one, other, led = (
        np.array(drawn(admission("class2img", "class", class_id=number, guidance_scale=scale))[0])
        for number, scale in ((0, 1.0), (CLASSES - 1, 1.0), (0, 3.0))
    )
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, led)
    _, conditions = prepared(admission("class2img", "class", class_id=2, guidance_scale=3.0))
    null = model_of("class").encode_labels(torch.tensor([CLASSES]))[0]
    assert conditions.unconditional is not None
    assert conditions.unconditional.context is not None
    assert torch.equal(conditions.unconditional.context, null)


def test_labels_of_the_time_embedding_are_classes_without_guidance() -> None:
    spec, conditions = prepared(admission("class2img", "label", class_id=3, guidance_scale=3.0))
    assert (spec.guided, conditions.unconditional, conditions.inputs.context) == (False, None, None)
    assert conditions.inputs.labels is not None
    assert conditions.inputs.labels.item() == 3
    one, other = (np.array(drawn(admission("class2img", "label", class_id=number))[0]) for number in (3, 4))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("model", "number"), [("class", CLASSES), ("label", CLASSES), ("class", -1)])
def test_a_class_that_the_weights_lack_is_refused(model: str, number: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(admission("class2img", model, class_id=number))
    assert (caught.value.field, caught.value.value, caught.value.bound) == ("class_id", number, f"0 to {CLASSES - 1}")


@pytest.mark.parametrize("size", [(64, 64), (70, 50), (1, 3)])
def test_a_label_map_is_answered_at_its_size(size: tuple[int, int]) -> None:
    [picture] = drawn(admission("semantic2img", "map", label_map(*size)))
    assert picture.size == size


def test_a_label_map_reaches_the_unet_as_the_rescaler_makes_it() -> None:
    _, conditions = prepared(admission("semantic2img", "map", label_map(64, 64)))
    values = torch.arange(64 * 64).reshape(1, 64, 64) % 256 % MAP_CLASSES
    assert conditions.inputs.concat is not None
    assert torch.equal(conditions.inputs.concat, model_of("map").map_concat(values)[0])


def test_a_label_map_with_an_unknown_class_names_its_pixel() -> None:
    picture = Image.new("L", (8, 8), 1)
    picture.putpixel((5, 2), MAP_CLASSES)
    with pytest.raises(InvalidRequest) as caught:
        prepared(admission("semantic2img", "map", lossless(picture)))
    assert (caught.value.value, caught.value.bound) == (f"{MAP_CLASSES} at (5, 2)", MAP_CLASSES - 1)


def test_boxes_reach_the_unet_as_their_numbers_say_and_nothing_guides() -> None:
    spec, conditions = prepared(admission("layout2img", "layout", tokens=LAID_OUT))
    assert (spec.guided, conditions.unconditional) == (False, None)
    context = model_of("layout").encode_tokens([(torch.tensor([LAID_OUT]), None)]).context[0]
    assert conditions.inputs.context is not None
    assert torch.equal(conditions.inputs.context, context)
    moved = (3, 22, *LAID_OUT[2:])
    one, other = (np.array(drawn(admission("layout2img", "layout", tokens=tokens))[0]) for tokens in (LAID_OUT, moved))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("model", "tokens", "bound"),
    [
        ("layout", LAID_OUT[1:], 11),
        ("layout", (LAYOUT_VOCABULARY, *LAID_OUT[1:]), f"0 to {LAYOUT_VOCABULARY - 1}"),
        ("layout", (-1, *LAID_OUT[1:]), f"0 to {LAYOUT_VOCABULARY - 1}"),
        ("plain", LAID_OUT, 0),
    ],
)
def test_numbers_that_the_weights_lack_are_refused(model: str, tokens: tuple[int, ...], bound: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prepared(admission("layout2img", model, tokens=tokens))
    assert (caught.value.field, caught.value.bound) == ("tokens", bound)


def test_a_layout_is_drawn_to_the_same_bytes_beside_others() -> None:
    job = admission("layout2img", "layout", tokens=LAID_OUT, determinism="strict", seed=5)
    others = [
        Admission(name, admission("layout2img", "layout", tokens=(7, *LAID_OUT[1:]), seed=seed).request, {})
        for name, seed in (("b", 1), ("c", 2))
    ]
    engine = {"layout": model_of("layout")}
    alone, beside = (finished(play(make_engine(engine), [job, *more]))["a", 0] for more in ([], others))
    assert alone.tobytes() == beside.tobytes()


def test_noise_levels_are_labels_and_noise_of_each_images_seed() -> None:
    data = picture_bytes(16, 16)
    job = admission("upscale", "x4", data, prompt="red", noise_level=200, guidance_scale=4.0, num_images=2)
    spec, conditions = prepared(job)
    assert spec.guided
    assert conditions.inputs.labels is not None
    assert conditions.inputs.labels.item() == 200
    low_res = to_tensor(spec.pictures["image"])
    config = model_of("x4").config.low_res_schedule
    assert config is not None
    signal = float(NoiseSchedule(config).alphas_cumprod[200])
    for seed in job.request.seeds:
        concat = of_image(spec, conditions, seed).inputs.concat
        assert concat is not None
        wanted = signal**0.5 * low_res[0] + (1 - signal) ** 0.5 * noise(seed, LOW_RES, 0, (3, 16, 16))
        torch.testing.assert_close(concat, wanted)
    assert [picture.size for picture in drawn(job)] == [(64, 64)] * 2


@pytest.mark.parametrize("level", [None, 1000])
def test_a_noise_level_that_the_weights_lack_is_refused(level: int | None) -> None:
    with pytest.raises(InvalidRequest, match="the model has 0 to 999"):
        prepared(admission("upscale", "x4", picture_bytes(16, 16), noise_level=level))


@pytest.mark.parametrize("model", ["plain", "plain-vq", "sd-inpaint", "ldm-inpaint", "bare"])
def test_every_recipe_of_inpainting_keeps_what_is_outside(model: str) -> None:
    data = picture_bytes(70, 50)
    job = inpaint("a", data, mask_bytes(70, 50, (10, 10, 40, 30)), model=model, guidance_scale=1.0, steps=2)
    [picture] = drawn(job)
    before, after = np.array(Image.open(io.BytesIO(data))), np.array(picture)
    changed = (before != after).any(-1)
    assert changed[10:30, 10:40].any()
    changed[10:30, 10:40] = False
    assert not changed.any()


def test_the_ldm_recipe_blackens_the_hole_and_marks_it_with_one() -> None:
    data, model = picture_bytes(64, 64), model_of("ldm-inpaint")
    job = inpaint("a", data, mask_bytes(64, 64, (0, 0, 32, 64)), model="ldm-inpaint", guidance_scale=1.0)
    _, conditions = prepared(job)
    masked = to_tensor(Image.open(io.BytesIO(data)))
    masked[..., :32] = -1.0
    assert conditions.inputs.concat is not None
    torch.testing.assert_close(conditions.inputs.concat[:3], model.first_stage.encode(masked)[0])
    assert conditions.inputs.concat[3, :, :8].eq(1.0).all()
    assert conditions.inputs.concat[3, :, 8:].eq(-1.0).all()


@pytest.mark.parametrize("model", ["plain", "plain-vq", "sd-inpaint", "bare"])
def test_img2img_starts_from_the_picture_under_noise(model: str) -> None:
    data = picture_bytes(70, 50, "RGBA")
    job = admission("img2img", model, data, strength=0.5, steps=4)
    spec, conditions = prepared(job)
    assert spec.plan.steps == 2
    assert conditions.latent is not None
    assert conditions.known is None
    weak, strong, other = (
        drawn(admission("img2img", model, image, strength=strength, steps=4))[0]
        for image, strength in ((data, 0.25), (data, 1.0), (picture_bytes(70, 50, seed=1), 0.25))
    )
    assert weak.size == strong.size == (70, 50)
    assert weak.mode == "RGB"
    assert len({picture.tobytes() for picture in (weak, strong, other)}) == 3


def test_img2img_gives_inpainting_models_a_wholly_masked_grey_picture() -> None:
    model = model_of("sd-inpaint")
    _, conditions = prepared(admission("img2img", "sd-inpaint", picture_bytes(64, 64), strength=0.5))
    assert conditions.inputs.concat is not None
    assert conditions.inputs.concat[0].eq(1.0).all()
    torch.testing.assert_close(conditions.inputs.concat[1:], model.encode_images(torch.zeros(1, 3, 64, 64))[0])


def test_all_kinds_share_an_engine() -> None:
    picture = picture_bytes(64, 64)
    jobs = [
        admission("class2img", "class", class_id=1, guidance_scale=3.0),
        admission("semantic2img", "map", label_map(64, 64)),
        admission("upscale", "x4", picture_bytes(16, 16), noise_level=20),
        admission("img2img", "plain", picture, strength=0.5),
        admission("txt2img", "bare"),
        admission("layout2img", "layout", tokens=LAID_OUT),
    ]
    numbered = [Admission(str(i), job.request, job.pictures) for i, job in enumerate(jobs)]
    assert [picture.size for picture in drawn(*numbered)] == [(NATIVE, NATIVE)] * len(jobs)


def test_sizes_far_from_the_training_size_are_drawn_convolutionally() -> None:
    assert drawn(admission("txt2img", "plain", width=512, height=256))[0].size == (512, 256)


def test_label_maps_are_rescaled_in_strips_as_they_are_whole() -> None:
    model = model_of("map")
    labels = torch.randint(0, MAP_CLASSES, (1, 3 * 32 + 4, 24), generator=torch.Generator().manual_seed(0))
    one_hot = F.one_hot(labels, MAP_CLASSES).permute(0, 3, 1, 2).float()
    assert isinstance(model.conditioner, SpatialRescaler)
    torch.testing.assert_close(model.map_concat(labels), model.conditioner(one_hot))
