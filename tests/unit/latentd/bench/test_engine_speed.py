"""`latentd bench engine`: the shapes are the published ones, both sides draw the same picture, rows are consistent."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import ConfigurationError
from core.settings import Settings
from latentd.bench.engine_speed import SEED, SIDES, Plan, Subject, bench, conditioned, half_precision, rounds_of
from latentd.bench.in_diffusers import check_diffusers, in_diffusers
from latentd.bench.one_run import Timing, engine_of, run
from latentd.bench.random_model import card_of, loaded, random_checkpoint, stand_in_tokenizers, tiny, unallocated
from latentd.bench.shapes import SHAPES, XL, text_model
from latentd.bench.step_times import admission
from latentd.bench.step_times import make_request as bench_request
from models.checkpoints.checkpoint import Checkpoint, check
from models.checkpoints.layouts.diffusers.config import unet_config
from models.networks.layers import can_pack, packed
from models.pipeline.config import ModelConfig
from models.samplers.noise import X_T, noise
from tests.engines import finished, make_engine, make_request, play
from tests.starved import allowance
from tests.tiny import configs, random_weights, tiny_tokenizer
from tests.unit.models.checkpoints.test_full_size import PUBLISHED_XL
from workers.engine.kinds import job_spec_of
from workers.engine.messages import Admission
from workers.metrics.flops import row_flops


@pytest.mark.parametrize(
    ("config", "gflop", "millions"),
    [(text_model(768, 64), 803.3, 859.5), (text_model(1280, 32), 182.1, 872.3), (XL, 6761.2, 2567.5)],
    ids=["sd15", "ldm-text-large", "sdxl"],
)
def test_the_shapes_are_the_published_ones(config: ModelConfig, gflop: float, millions: float) -> None:
    model = unallocated(config, "a", stand_in_tokenizers(config))
    side = config.latent_size or 0
    assert row_flops(model)((4, side, side)) / 1e9 == pytest.approx(gflop, abs=0.1)
    assert sum(p.numel() for p in model.unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert check(Checkpoint(config, {}, stand_in_tokenizers(config))).config.added_numbers == (6 if config is XL else 0)


def test_sdxl_is_the_network_that_its_authors_published_for_diffusers() -> None:
    assert unet_config(PUBLISHED_XL["sdxl"]) == XL.unet


@pytest.mark.parametrize("config", [text_model(768, 16), XL], ids=["text", "sdxl"])
def test_diffusers_draws_the_same_picture_with_the_same_weights(config: ModelConfig) -> None:
    checkpoint = random_checkpoint(tiny(config), "cpu")
    card = card_of(checkpoint, "plain")
    subject = Subject("plain", checkpoint, card, side=64, steps=5, guidance_scale=3.0, device="cpu", most=1)
    theirs = in_diffusers(checkpoint, "cpu", torch.float32)
    condition, shape = conditioned(subject, torch.float32)
    (other,) = theirs.decode(theirs.denoise(noise(SEED, X_T, 0, shape)[None], condition(1), 5, 3.0))
    request = bench_request(card, "txt2img", SEED, width=64, height=64, steps=5, guidance_scale=3.0, sampler="ddim")
    engine = engine_of(loaded(checkpoint, "plain", "cpu", torch.float32), 2)
    mine = finished(play(engine, [Admission("a", request)]))["a", 0]
    assert levels(mine, other) <= 2
    assert np.asarray(mine).std() > 1


def test_models_are_made_ready_as_workers_make_them() -> None:
    model = loaded(random_checkpoint(tiny(text_model(768, 16)), "cpu"), "a", "cpu", torch.bfloat16)
    assert packed(model.unet) is can_pack(model.device, torch.bfloat16)


@pytest.mark.parametrize("as_gpu", [False, True])
def test_steps_and_the_rest_make_the_whole_time(as_gpu: bool) -> None:
    engine = make_engine(as_gpu=as_gpu, max_rows=4)
    jobs = [Admission(str(i), make_request(steps=6, num_images=3, seed=i)) for i in range(2)]
    allowed, began = allowance(), time.perf_counter()
    timing = run(engine, jobs)
    whole_s = time.perf_counter() - began
    assert timing.rest_s > 0
    assert timing.steps_s > 0
    assert 0.5 * (whole_s - allowed()) < timing.steps_s + timing.rest_s <= whole_s


def levels(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "models": ["sd15"],
        "sides": ["latentd", "diffusers float32"],
        "batches": [1, 2],
        "steps": 1,
        "rounds": 1,
        "budget_s": 100.0,
        "tiny": True,
    }
    return Plan(**values | changes)  # type: ignore[arg-type]


def test_every_side_has_a_row_for_every_batch() -> None:
    seen: list[None] = []
    report = bench(Settings(threads=1), plan(), "cpu", lambda: seen.append(None))
    assert len(seen) == 8
    assert [(row["batch"], row["side"]) for row in report.rows] == [
        (batch, side) for batch in (1, 2) for side in ("latentd", "diffusers float32")
    ]
    assert [row["dtype"] for row in report.rows[:2]] == ["bfloat16", "float32"]
    for row in report.rows:
        assert isinstance(row["TFLOP/s"], float)
        assert isinstance(row["it/s"], float)
        per_step = row["TFLOP/s"] / row["it/s"] / int(str(row["batch"]))
        first = report.rows[0]
        assert per_step == pytest.approx(float(first["TFLOP/s"] or 0) / float(first["it/s"] or 1))


def test_what_there_is_no_time_for_is_named() -> None:
    report = bench(Settings(threads=1), plan(budget_s=0.0), "cpu", lambda: None)
    assert report.rows == ()
    assert "sd15 batch 1, sd15 batch 2" in report.notes[-1]


def test_the_median_of_the_rounds_counts_and_not_the_first() -> None:
    times = iter([9.0, 1.0, 3.0, 2.0])
    found = rounds_of({"a": lambda _batch, _steps: Timing(next(times), 0.0)}, 1, 1, 3, lambda: None)
    assert found == {"a": Timing(2.0, 0.0)}


def test_a_side_that_does_not_fit_in_memory_is_not_asked_again() -> None:
    asked: list[int] = []
    found = rounds_of({"a": lambda batch, _steps: asked.append(batch)}, 32, 1, 3, lambda: None)
    assert (found, asked) == ({"a": None}, [32])


def test_every_side_and_shape_is_named_once() -> None:
    assert {"emoji", "sd15", "sdxl", "ldm-text-large"} <= set(SHAPES)
    assert {"latentd", "diffusers", "diffusers channels_last", "diffusers compiled"} <= set(SIDES)
    assert half_precision("cpu") == torch.bfloat16


def test_a_missing_diffusers_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentd.bench.in_diffusers.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"latentd\[dev\]"):
        check_diffusers()


@pytest.mark.parametrize("kind", ["layout", "class", "map", "plain"])
def test_a_default_request_is_one_that_its_model_takes(kind: str) -> None:
    config = configs()[kind]
    tokenizers = (tiny_tokenizer(),) if kind == "plain" else ()
    checkpoint = random_weights(config, 0, *tokenizers)
    card = card_of(checkpoint, kind)
    job = admission("a", bench_request(card, card.tasks[0], 1))
    model = loaded(checkpoint, kind, "cpu", torch.float32)
    assert job_spec_of(job.request, job.pictures, model, 1 << 24).request.model == kind
