"""`latentd bench engine`: the shapes are the published ones, both sides draw the same picture, rows are consistent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import ConfigurationError
from core.settings import Settings
from latentd.bench.engine_speed import SIDES, Plan, bench, half_precision, rounds_of
from latentd.bench.in_diffusers import check_diffusers, in_diffusers
from latentd.bench.one_run import Timing
from latentd.bench.random_model import random_checkpoint, tiny, unallocated
from latentd.bench.shapes import SHAPES, text_model
from tests.engines import finished, make_request, play
from workers.engine.engine import Engine
from workers.engine.messages import Admission
from workers.metrics.flops import row_flops


@pytest.mark.parametrize(
    ("context_dim", "side", "gflop", "millions"), [(768, 64, 803.3, 859.5), (1280, 32, 182.1, 872.3)]
)
def test_the_shapes_are_those_of_sd_1_5_and_of_ldm_text2img_large(
    context_dim: int, side: int, gflop: float, millions: float
) -> None:
    model = unallocated(text_model(context_dim, side), "a", 77)
    assert row_flops(model)((4, side, side)) / 1e9 == pytest.approx(gflop, abs=0.1)
    assert sum(p.numel() for p in model.unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_diffusers_draws_the_same_picture_with_the_same_weights() -> None:
    from latentd.bench.diffusers_loop import Condition
    from models.checkpoints.load import assemble
    from models.samplers.noise import X_T, noise

    checkpoint = random_checkpoint(tiny(text_model(768, 16)), "cpu")
    theirs = in_diffusers(checkpoint, "cpu", torch.float32)
    ours = assemble(checkpoint, "plain")
    engine = Engine({"plain": ours}, device="cpu", threads=1, max_rows=4, strict_rows=4)
    request = make_request(model="plain", steps=5, guidance_scale=3.0, seed=3)
    mine = finished(play(engine, [Admission("a", request)]))["a", 0]
    z_t = noise(3, X_T, 0, (4, 8, 8))[None]
    with torch.inference_mode():
        condition = Condition(ours.encode_prompts([request.text]), ours.encode_prompts([""]))
    (other,) = theirs.decode(theirs.denoise(z_t, condition, 5, 3.0))
    assert levels(mine, other) <= 2


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
    assert {"emoji", "sd15", "ldm-text-large"} <= set(SHAPES)
    assert {"latentd", "diffusers", "diffusers channels_last", "diffusers compiled"} <= set(SIDES)
    assert half_precision("cpu") == torch.bfloat16


def test_a_missing_diffusers_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentd.bench.in_diffusers.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"latentd\[dev\]"):
        check_diffusers()
