"""An engine that runs out of memory: smaller calls, one after the other, and a job fails for its own needs alone."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from contract.add_ons import Hires
from models.samplers.update import apply
from tests.engines import (
    EITHER,
    NOWHERE,
    admitted,
    failures,
    faulty_models,
    finished,
    job_of,
    make_engine,
    make_request,
    picture_bytes,
    play,
)
from workers.engine.device import Aside
from workers.engine.messages import Admission, Called, Outcome, OutOfMemory, Prepared

SHAPES = ((4, 8, 8), (4, 16, 16))  # of the latents of a job of 64 pixels, and of its pass at twice the size


def _encoded(job_id: str) -> Admission:
    """A job with a picture that is encoded as it is prepared."""
    return admitted(job_id, make_request(kind="img2img", image=NOWHERE, strength=0.5), {"image": picture_bytes()})


@EITHER
def test_a_call_that_runs_out_of_memory_is_split_and_the_ceiling_kept(as_gpu: bool) -> None:
    faulty, models = faulty_models()
    faulty.most_rows = 5
    engine = make_engine(models, as_gpu=as_gpu)
    outcomes = play(engine, [job_of(f"j{i}") for i in range(8)])
    assert len(finished(outcomes)) == 8
    assert [o.size for o in outcomes if isinstance(o, OutOfMemory)] == [16, 8]
    assert max(o.rows for o in outcomes if isinstance(o, Called)) == 4
    again = play(engine, [job_of(f"k{i}") for i in range(8)])
    assert not any(isinstance(o, OutOfMemory) for o in again)


def test_a_job_that_fits_in_no_call_fails_and_a_strict_call_keeps_its_size() -> None:
    faulty, models = faulty_models()
    faulty.most_rows = 1
    engine = make_engine(models)
    outcomes = play(engine, [job_of("guided"), job_of("plain", guidance_scale=1.0)])
    assert list(failures(outcomes)) == ["guided"]
    assert list(finished(outcomes)) == [("plain", 0)]
    faulty.most_rows = 3
    outcomes = play(engine, [job_of("strict", determinism="strict"), job_of("plain", guidance_scale=1.0)])
    assert list(failures(outcomes)) == ["strict"]
    assert list(finished(outcomes)) == [("plain", 0)]


@EITHER
def test_a_second_pass_that_runs_out_of_memory_is_split_and_the_first_isn_t(as_gpu: bool) -> None:
    faulty, models = faulty_models()
    faulty.most_cells = 5 * 16 * 16  # of the second pass five rows; of the first all that may share a call
    second = Hires(scale=2.0, strength=0.5, steps=8, upscaler="latent")
    engine = make_engine(models, as_gpu=as_gpu)
    outcomes = play(engine, [job_of("a", hires=second, num_images=8)])
    assert len(finished(outcomes)) == 8
    split = [o.size for o in outcomes if isinstance(o, OutOfMemory)]
    assert split
    assert min(split) > 5
    rows = {shape: max(o.rows for o in outcomes if isinstance(o, Called) and o.shape == shape) for shape in SHAPES}
    assert rows[SHAPES[0]] == 16
    assert rows[SHAPES[1]] <= 5
    assert not any(isinstance(o, OutOfMemory) for o in play(engine, [job_of("b", hires=second, num_images=8)]))
    faulty.most_cells = 3 * 16 * 16  # fewer than a strict call's rows
    jobs = [job_of("large", hires=second, determinism="strict"), job_of("small", determinism="strict")]
    outcomes = play(engine, jobs)
    assert failures(outcomes) == {"large": "a call of 4 rows doesn't fit in this device's memory"}
    assert list(finished(outcomes)) == [("small", 0)]


@EITHER
def test_decoding_that_runs_out_of_memory_takes_fewer_at_a_time(as_gpu: bool) -> None:
    faulty, models = faulty_models()
    faulty.most_pictures = 1
    engine = make_engine(models, as_gpu=as_gpu)
    outcomes = play(engine, [job_of("a", num_images=4)])
    assert len(finished(outcomes)) == 4
    assert [o.size for o in outcomes if isinstance(o, OutOfMemory)] == [4, 2]
    faulty.most_pictures = 0
    assert "memory" in failures(play(engine, [job_of("b")]))["b"]


def test_a_call_that_lacks_what_decoding_beside_it_has_is_repeated_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Aside, "ready", lambda _: False)  # as while a GPU decodes
    faulty, models = faulty_models()
    engine = make_engine(models, as_gpu=True)
    engine.admit(job_of("short", steps=2))
    engine.admit(job_of("long", steps=6))
    outcomes: list[Outcome] = []
    while engine.busy:
        faulty.most_rows = 10**9 if engine._chunk is None else 0
        outcomes += engine.turn()
    assert set(finished(outcomes)) == {("short", 0), ("long", 0)}
    assert not any(isinstance(o, OutOfMemory) for o in outcomes)


@pytest.mark.parametrize("which", [1, 2, 4])
def test_a_call_that_lacks_memory_at_its_end_is_repeated_whole(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """No picture of it has gone on: else some would skip a step."""
    clone, jobs, cloned = torch.Tensor.clone, [job_of(name, steps=3) for name in ("a", "b")], count(1)
    reached: list[object] = []  # once the network has answered

    def short(x: torch.Tensor) -> torch.Tensor:
        if reached and next(cloned) == which:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clone(x)

    def applied(*given: Any) -> object:
        reached.append(apply(*given))
        return reached[-1]

    expected = finished(play(make_engine(), jobs))
    with monkeypatch.context() as patch:
        patch.setattr("workers.engine.denoise.apply", applied)
        patch.setattr(torch.Tensor, "clone", short)
        outcomes = play(make_engine(), jobs)
    assert [o.size for o in outcomes if isinstance(o, OutOfMemory)] == [4]
    for key, picture in finished(outcomes).items():
        apart = np.asarray(picture).astype(int) - np.asarray(expected[key])
        assert np.abs(apart).max() <= 1


@EITHER
def test_a_strict_job_doesn_t_fail_by_what_others_bring_to_its_call(as_gpu: bool) -> None:
    faulty, models = faulty_models()
    jobs = [job_of(name, prompt=f"prompt {name}", determinism="strict") for name in ("a", "b")]
    alone = {key: value.tobytes() for job in jobs for key, value in finished(play(make_engine(models), [job])).items()}
    faulty.most_prompts = 2  # its own and none
    outcomes = play(make_engine(models, as_gpu=as_gpu), [*jobs, job_of("fast", prompt="prompt fast")])
    assert failures(outcomes) == {}
    assert {key: value.tobytes() for key, value in finished(outcomes).items() if key[0] != "fast"} == alone
    assert {o.padded_rows for o in outcomes if isinstance(o, Called) and o.strict} == {4}


def test_a_job_is_prepared_without_the_memory_of_what_is_decoded_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Aside, "ready", lambda _: False)  # as while a GPU decodes
    faulty, models = faulty_models()
    ticks = count()
    engine = make_engine(models, as_gpu=True, clock=lambda: float(next(ticks)))
    engine.admit(job_of("first", steps=2))
    outcomes: list[Outcome] = []
    while engine._chunk is None:
        outcomes += engine.turn()
    engine.admit(_encoded("second"))
    faulty.encodes = lambda: engine._chunk is None
    while engine.busy:
        outcomes += engine.turn()
    assert set(finished(outcomes)) == {("first", 0), ("second", 0)}
    prepared = {o.job_id: o.seconds for o in outcomes if isinstance(o, Prepared)}
    assert prepared["first"] == prepared["second"], "what went before is no cost of the job's"
    assert not any(isinstance(o, OutOfMemory) for o in outcomes)
    faulty.encodes = lambda: False
    assert "memory" in failures(play(engine, [_encoded("third")]))["third"]
