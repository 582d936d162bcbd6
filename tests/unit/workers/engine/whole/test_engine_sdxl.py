"""SDXL in the engine: rows told of other sizes and scores share calls, strict ones keep their bytes, parts fit."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from core.errors import InvalidRequest
from models.checkpoints.load import load
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from tests.engines import admitted, finished, make_engine, make_request, picture_bytes, play
from tests.parity.run import CASES
from workers.engine.kinds import job_spec_of, prepare
from workers.engine.messages import Admission, Stepped
from workers.prompts import PromptCache


@lru_cache
def models() -> dict[str, LatentDiffusion]:
    cases = {name: CASES / "sdxl" / f"sdxl_{name}" / "pipeline" for name in ("base", "refiner")}
    return {name: replace(load(path), id=name) for name, path in cases.items()}


def drawn(job_id: str, **changes: object) -> Admission:
    fields: dict[str, object] = {"model": "base", "sampler": "euler", "steps": 2, "negative_prompt": None}
    return Admission(job_id, make_request(**fields | changes))


def refined(job_id: str, **changes: object) -> Admission:
    fields: dict[str, object] = {"kind": "img2img", "model": "refiner", "sampler": "euler", "steps": 4, "width": 64}
    return admitted(job_id, make_request(**fields | changes), {"image": picture_bytes(64, 64)})


def test_rows_told_of_other_things_share_calls() -> None:
    told: list[dict[str, object]] = [
        {},
        {"original_size": (20, 30)},
        {"crop": (5, 0), "guidance_scale": 1.0},
        {"guidance_rescale": 0.7},
    ]
    outcomes = play(make_engine(models()), [drawn(str(i), **changes) for i, changes in enumerate(told)])
    assert max(o.share.jobs for o in outcomes if isinstance(o, Stepped)) == 4
    scores = [refined(str(i), aesthetic_score=float(i), strength=0.5) for i in range(3)]
    outcomes = play(make_engine(models()), scores)
    assert max(o.share.jobs for o in outcomes if isinstance(o, Stepped)) == 3
    pictures = [np.asarray(picture).astype(int) for picture in finished(outcomes).values()]
    assert all((pictures[0] != other).any() for other in pictures[1:])


def test_a_base_and_its_refiner_share_no_call() -> None:
    outcomes = play(make_engine(models()), [drawn("a"), refined("b", strength=0.5)])
    assert {o.share.jobs for o in outcomes if isinstance(o, Stepped)} == {1}
    assert len(finished(outcomes)) == 2


def test_a_strict_row_keeps_its_bytes_beside_others() -> None:
    strict = {"determinism": "strict", "guidance_rescale": 0.7, "original_size": (100, 80)}
    alone = finished(play(make_engine(models()), [drawn("a", **strict)]))["a", 0]
    others = [drawn("b", crop=(3, 4)), drawn("c", guidance_scale=1.0), drawn("d", guidance_rescale=0.3)]
    beside = finished(play(make_engine(models()), [drawn("a", **strict), *others]))["a", 0]
    assert alone.tobytes() == beside.tobytes()


def test_what_it_is_told_is_in_the_networks_order() -> None:
    admission = drawn("a", width=80, height=64, original_size=(30, 20), crop=(5, 3))
    spec = job_spec_of(admission.request, {}, models()["base"], 10**6)
    conditions = prepare(spec, PromptCache())
    encoded = spec.model.encode_prompts(["red heart"])
    assert encoded.pooled is not None
    expected = spec.model.added(encoded.pooled, torch.tensor([[20, 30, 3, 5, 64, 80]]))[0]
    assert conditions.inputs.added is not None
    torch.testing.assert_close(conditions.inputs.added, expected)
    assert conditions.unconditional is not None
    assert conditions.unconditional.context is not None
    assert not conditions.unconditional.context.any()


def test_refiner_rows_have_scores_of_their_own() -> None:
    admission = refined("a", aesthetic_score=7.0)
    spec = job_spec_of(admission.request, admission.pictures, models()["refiner"], 10**6)
    conditions, model = prepare(spec, PromptCache()), spec.model
    for inputs, prompt, score in ((conditions.inputs, "red heart", 7.0), (conditions.unconditional, "", 2.5)):
        pooled = model.encode_prompts([prompt]).pooled
        assert inputs is not None
        assert inputs.added is not None
        assert pooled is not None
        torch.testing.assert_close(inputs.added, model.added(pooled, torch.tensor([[64, 64, 0, 0, score]]))[0])


@torch.inference_mode()
def test_two_parts_are_the_whole_way() -> None:
    """What one leaves, x0 + σ/α·ξ, the other goes on from: together the steps of one job."""
    model = models()["base"]
    whole, begun = (job_spec_of(drawn("a", **part).request, {}, model, 10**6) for part in ({}, {"denoising_end": 0.5}))
    over = refined("b", model="base", denoising_start=0.5, steps=2)
    left = job_spec_of(over.request, over.pictures, model, 10**6)
    assert [len(spec.plan.rows) for spec in (whole, begun, left)] == [2, 1, 1]
    assert (begun.plan.rows, left.plan.rows[0].t) == (whole.plan.rows[:1], whole.plan.rows[1].t)
    inputs = prepare(whole, PromptCache()).inputs
    conditioning = Conditioning(type(inputs).stack([inputs]))
    x_T = torch.randn(1, *whole.latent_shape, generator=torch.Generator().manual_seed(0))
    halfway = sample(model, begun.plan, x_T, conditioning) / begun.plan.end.alpha
    end = sample(model, left.plan, left.plan.start.alpha * halfway, conditioning)
    torch.testing.assert_close(end, sample(model, whole.plan, x_T, conditioning))


def test_a_part_without_a_step_is_refused() -> None:
    admission = refined("a", denoising_start=0.9999)
    with pytest.raises(InvalidRequest, match="no step lies between denoising_start"):
        job_spec_of(admission.request, admission.pictures, models()["refiner"], 10**6)
