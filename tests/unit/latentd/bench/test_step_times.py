from __future__ import annotations

import pytest

from contract.card import ModelCard
from latentd.bench.step_times import measure, turns
from tests.engines import make_engine
from tests.tiny import SAMPLERS
from workers.planner.costs import price
from workers.planner.mix import JobClass


def make_card(**fields: object) -> ModelCard:
    values: dict[str, object] = {
        "description": "",
        "hash": "",
        "native_size": 64,
        "prediction_type": "v",
        "samplers": SAMPLERS,
        "licence": "",
    }
    return ModelCard.model_validate(values | fields)


PAINT = make_card(
    id="paint",
    tasks=("txt2img", "inpaint"),
    latent_factor=8,
    fields=("prompt",),
    defaults={"steps": 4, "sampler": "ddim", "guidance_scale": 4.0},
)
UP = make_card(
    id="up", tasks=("upscale",), latent_factor=4, scale=4, fields=(), defaults={"steps": 4, "sampler": "ddim"}
)


def test_every_size_and_kind_is_measured_and_can_be_planned_with() -> None:
    seen: list[None] = []
    report = measure(make_engine(), [PAINT, UP], 16, lambda: seen.append(None))
    tables = {table.model: table for table in report.tables}
    (paint,), (up,) = (tables[model].shapes for model in ("paint", "up"))
    assert (paint.shape, up.shape) == ((4, 8, 8), (3, 16, 16))
    assert list(paint.calls) == [1, 2, 4, 8, 16]
    assert set(paint.encode_s) == {"txt2img", "inpaint"}
    assert set(report.images_per_s) == {"paint txt2img", "up upscale"}
    assert len(seen) == pytest.approx(turns([PAINT, UP], 16), rel=0.3)
    costs = price((JobClass(kind="inpaint", model="paint", width=64, height=64, steps=4),), tables)
    assert costs.jobs[0].encode_s > 0


def test_calls_never_exceed_the_worker_s_rows() -> None:
    report = measure(make_engine(max_rows=4), [UP], 4, lambda: None)
    assert list(report.tables[0].shapes[0].calls) == [1, 2, 4]


def test_calls_are_measured_up_to_the_worker_s_rows() -> None:
    report = measure(make_engine(max_rows=36), [UP], 36, lambda: None)
    assert list(report.tables[0].shapes[0].calls) == [1, 2, 4, 8, 16, 32, 36]
    assert report.cards == (UP,)
