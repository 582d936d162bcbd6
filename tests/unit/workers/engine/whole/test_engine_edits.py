"""InstructPix2Pix and depth: what their UNets read and what they draw, by diffusers' pipelines and in shared calls."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from core.pictures import lossless
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.diffusers.writer import save_diffusers
from models.checkpoints.load import load
from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from models.samplers.noise import X_T, noise
from tests.controls import CASE
from tests.engines import admitted, failures, finished, make_engine, make_request, picture_bytes, play
from workers.engine.conditioning import placed
from workers.engine.engine_job import EngineJob
from workers.engine.kinds import job_spec_of, prepare
from workers.engine.messages import Admission, Called
from workers.prompts import PromptCache

SEED, STEPS = 7, 4
DIFFUSERS: Any = diffusers
CLASSES: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "edit": (DIFFUSERS.StableDiffusionInstructPix2PixPipeline, 8, {"requires_safety_checker": False}),
    "depth": (DIFFUSERS.StableDiffusionDepth2ImgPipeline, 5, {}),
}
PICTURE = picture_bytes(64, 64)
DEPTH = lossless(Image.linear_gradient("L").resize((64, 64)).rotate(30))


@lru_cache
def pair(name: str) -> tuple[Any, LatentDiffusion]:
    """A pipeline of random weights, and what we read of the folder that it writes."""
    cls, channels, options = CLASSES[name]
    base = DIFFUSERS.StableDiffusionPipeline.from_pretrained(CASE / "two_controlnets" / "pipeline").to(torch.float32)
    torch.manual_seed(channels)
    unet = DIFFUSERS.UNet2DConditionModel.from_config({**base.unet.config, "in_channels": channels}).eval()
    parts = {part: getattr(base, part) for part in ("vae", "text_encoder", "tokenizer")}
    scheduler = DIFFUSERS.DDIMScheduler.from_config(base.scheduler.config)
    missing = "safety_checker" if name == "edit" else "depth_estimator"
    made = cls(unet=unet, scheduler=scheduler, feature_extractor=None, **{missing: None}, **parts, **options)
    made.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return made, load(Path(folder))


def job(name: str, job_id: str = "a", **changes: object) -> Admission:
    kind, depth = ("img2img", {}) if name == "edit" else ("depth2img", {"depth": DEPTH})
    fields: dict[str, object] = {"kind": kind, "model": pair(name)[1].id, "steps": STEPS, "seed": SEED}
    return admitted(job_id, make_request(**fields | {"prompt": "red heart"} | changes), {"image": PICTURE, **depth})


def prepared(admission: Admission, model: LatentDiffusion) -> EngineJob:
    made = EngineJob(admission, [job_spec_of(admission.request, admission.pictures, model, 1 << 24)])
    made.start(lambda spec: placed(prepare(spec, PromptCache()), model))
    return made


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def told(name: str, call: Callable[[Any], Any]) -> tuple[Tensor, Tensor]:
    """What a pipeline's UNet reads beside z_t in its first call, and the last latent."""
    pipeline, _ = pair(name)
    seen: list[Tensor] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    try:
        latent = call(pipeline)
    finally:
        hook.remove()
    return seen[0][:, 4:], latent


def last_latent(admission: Admission, model: LatentDiffusion) -> Tensor:
    engine = make_engine({model.id: model})
    engine.admit(admission)
    while not (engine._jobs[admission.job_id].images and engine._jobs[admission.job_id].images[0].done):
        engine.turn()
    return engine._jobs[admission.job_id].images[0].z_t


def concat_of(inputs: Inputs | None) -> Tensor:
    assert inputs is not None
    assert inputs.concat is not None
    return inputs.concat


@torch.inference_mode()
@pytest.mark.parametrize(("guidance", "of_image"), [(7.5, 1.5), (3.0, 1.0), (1.0, 1.5), (5.0, 4.0)])
def test_instruct_pix2pix_equals_diffusers(guidance: float, of_image: float) -> None:
    def call(pipeline: Any) -> Tensor:
        side = 64 // pipeline.vae_scale_factor
        x_T = noise(SEED, X_T, 0, (4, side, side))[None]
        made = pipeline(
            "red heart", image=opened(PICTURE), latents=x_T, num_inference_steps=STEPS, output_type="latent",
            guidance_scale=guidance, image_guidance_scale=of_image,
        )  # fmt: skip
        latent: Tensor = made.images[0]
        return latent

    concat, latent = told("edit", call)
    model, admission = pair("edit")[1], job("edit", guidance_scale=guidance, image_guidance_scale=of_image)
    conditions = prepared(admission, model).images[0].conditions
    torch.testing.assert_close(concat_of(conditions.inputs), concat[0], atol=1e-5, rtol=1e-4)
    if guidance != 1.0:
        torch.testing.assert_close(concat_of(conditions.unconditional), concat[1], atol=1e-5, rtol=1e-4)
        assert (conditions.bare is None) == (of_image == 1.0)
        assert not concat[2].any()
    torch.testing.assert_close(last_latent(admission, model), latent, atol=2e-4, rtol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_depth_equals_diffusers(guidance: float) -> None:
    depth = torch.from_numpy(np.array(opened(DEPTH), dtype=np.float32))[None]

    def call(pipeline: Any) -> Tensor:
        # Its own noise over the picture comes from a generator: ours goes in as the latent that strength 1 leaves.
        pipeline.prepare_latents = lambda *_, **__: latents
        made = pipeline(
            "red heart", image=opened(PICTURE), depth_map=depth, num_inference_steps=STEPS, strength=0.75,
            guidance_scale=guidance, output_type="latent",
        )  # fmt: skip
        latent: Tensor = made.images[0]
        return latent

    model, admission = pair("depth")[1], job("depth", guidance_scale=guidance, strength=0.75)
    image = prepared(admission, model).images[0]
    latents = image.z_t[None].clone()
    concat, latent = told("depth", call)
    torch.testing.assert_close(concat_of(image.conditions.inputs), concat[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(last_latent(admission, model), latent, atol=2e-4, rtol=1e-3)


def test_one_call_has_rows_of_three_kinds_each_as_alone() -> None:
    model = pair("edit")[1]
    changes: Mapping[str, dict[str, object]] = {
        "led": {"guidance_scale": 7.5, "image_guidance_scale": 1.5},
        "text": {"guidance_scale": 3.0, "image_guidance_scale": 1.0, "seed": 8},
        "bare": {"guidance_scale": 1.0, "image_guidance_scale": 1.5, "sampler": "euler"},
    }
    for determinism in ("fast", "strict"):
        jobs = [job("edit", name, determinism=determinism, **own) for name, own in changes.items()]
        outcomes = play(make_engine({model.id: model}, strict_rows=6), jobs)
        calls = [each for each in outcomes if isinstance(each, Called)]
        assert max(each.slots for each in calls) == 3
        assert max(each.rows for each in calls) == 6
        together = finished(outcomes)
        for each in jobs:
            alone = finished(play(make_engine({model.id: model}, strict_rows=6), [each]))
            a, b = (np.array(pictures[each.job_id, 0], dtype=int) for pictures in (together, alone))
            assert np.array_equal(a, b) if determinism == "strict" else abs(a - b).max() <= 1


def test_three_rows_of_a_strict_job_keep_together_where_calls_are_smaller() -> None:
    model = pair("edit")[1]
    led = job("edit", determinism="strict", image_guidance_scale=2.0)
    other = job("edit", "b", determinism="strict", guidance_scale=1.0)
    engine = make_engine({model.id: model}, strict_rows=2)
    both = finished(play(engine, [led, other]))
    alone = finished(play(make_engine({model.id: model}, strict_rows=2), [led]))
    assert both["a", 0].tobytes() == alone["a", 0].tobytes()


@pytest.mark.parametrize("name", CLASSES)
def test_a_savepoint_goes_on_to_the_same_bytes(name: str) -> None:
    model = pair(name)[1]
    changes: dict[str, Any] = {"image_guidance_scale": 2.0} if name == "edit" else {"strength": 0.8}
    admission = job(name, determinism="strict", **changes)
    engine = make_engine({model.id: model})
    engine.admit(admission)
    while not (engine._jobs["a"].images and engine._jobs["a"].step == 2):
        engine.turn()
    snapshot = engine.snapshot("a")
    resumed = Admission("a", admission.request, admission.pictures, snapshot=snapshot)
    whole, rest = (finished(play(make_engine({model.id: model}), [each]))["a", 0] for each in (admission, resumed))
    assert snapshot is not None
    assert whole.tobytes() == rest.tobytes()


def test_depth_moves_the_picture_and_any_size_is_answered() -> None:
    model = pair("depth")[1]
    sized = (picture_bytes(70, 50), lossless(Image.linear_gradient("L").resize((70, 50))))
    other = (sized[0], lossless(Image.linear_gradient("L").rotate(90).resize((70, 50))))
    drawn = []
    for image, depth in (sized, other):
        admission = admitted("a", job("depth").request, {"image": image, "depth": depth})
        outcomes = play(make_engine({model.id: model}), [admission])
        assert failures(outcomes) == {}
        drawn.append(finished(outcomes)["a", 0])
    assert drawn[0].size == drawn[1].size == (70, 50)
    assert drawn[0].tobytes() != drawn[1].tobytes()


@pytest.mark.parametrize("name", CLASSES)
def test_diffusers_reads_what_we_write(name: str, tmp_path: Path) -> None:
    pipeline, _ = pair(name)
    pipeline.save_pretrained(tmp_path / "theirs")
    save_diffusers(load_checkpoint(tmp_path / "theirs"), tmp_path / "ours")
    missing = {"safety_checker": None} if name == "edit" else {"depth_estimator": None, "feature_extractor": None}
    again = CLASSES[name][0].from_pretrained(tmp_path / "ours", **missing)
    for key, value in pipeline.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[key], value)
