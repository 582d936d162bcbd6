"""The engine's life: turns, progress, cancelling, deadlines, and failures that stay with their job."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from contract.add_ons import Hires
from core.errors import DeadlineMissed, InvalidRequest, JobFailed
from models.pipeline.pipeline import LatentDiffusion
from models.samplers import compile_plan
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
    tiny_models,
)
from workers.engine.engine import run
from workers.engine.messages import Aborted, Admission, Called, Finished, Outcome, Prepared, Stepped


def test_a_job_is_prepared_stepped_and_finished() -> None:
    outcomes = play(make_engine(), [job_of("a", num_images=2)])
    assert isinstance(outcomes[0], Prepared)
    steps = [(o.step, o.steps) for o in outcomes if isinstance(o, Stepped)]
    assert steps == [(2, 8), (4, 8), (6, 8), (8, 8)]
    assert [(o.index, o.picture.size) for o in outcomes if isinstance(o, Finished)] == [(0, (64, 64)), (1, (64, 64))]
    assert {o.rows for o in outcomes if isinstance(o, Called)} == {4}


@EITHER
def test_image_k_is_the_image_of_seed_plus_k(as_gpu: bool) -> None:
    engine = make_engine(as_gpu=as_gpu)
    both = finished(play(engine, [job_of("a", num_images=2, seed=2**32 - 1)]))
    alone = finished(play(engine, [job_of("b", seed=0)]))
    difference = torch.tensor(list(both["a", 1].tobytes())).sub(torch.tensor(list(alone["b", 0].tobytes()))).abs()
    assert difference.max() <= 1
    assert both["a", 0].tobytes() != both["a", 1].tobytes()


def test_every_turn_is_one_unit_of_work() -> None:
    engine = make_engine()
    for job_id in "abcdef":
        engine.admit(job_of(job_id, preview_every=1))
    while engine.busy:
        outcomes = engine.turn()
        kinds = {type(o) for o in outcomes if not isinstance(o, Stepped)}
        assert len(kinds) <= 1
        assert sum(isinstance(o, Called) for o in outcomes) <= 1
        assert sum(isinstance(o, Finished) for o in outcomes) <= 4
    assert engine.turn() == []


def test_mixed_jobs_share_calls() -> None:
    jobs = [
        job_of(f"j{i}", steps=6 + i, sampler=sampler, guidance_scale=scale, prompt=f"star {i}")
        for i, (sampler, scale) in enumerate(
            [("ddim", 4.0), ("plms", 1.0), ("euler", 2.0), ("dpmpp_2m", 4.0), ("ddpm", 3.0), ("unipc", 1.0)] * 2
        )
    ]
    calls = [o for o in play(make_engine(), jobs) if isinstance(o, Called)]
    alone = sum(isinstance(o, Called) for job in jobs for o in play(make_engine(), [job]))
    assert max(o.rows for o in calls) == 16
    assert 3 * len(calls) <= alone


def test_guidance_of_zero_is_the_conditional_row_alone() -> None:
    none, one = (play(make_engine(), [job_of("a", guidance_scale=scale)]) for scale in (0.0, 1.0))
    assert finished(none)[("a", 0)].tobytes() == finished(one)[("a", 0)].tobytes()
    assert {o.rows for o in none if isinstance(o, Called)} == {1}


@EITHER
def test_progress_of_plms_counts_the_users_steps(as_gpu: bool) -> None:
    outcomes = play(make_engine(as_gpu=as_gpu), [job_of("a", sampler="plms", steps=5)])
    assert [o.step for o in outcomes if isinstance(o, Stepped)] == [1, 2, 3, 4, 5]
    assert sum(isinstance(o, Called) for o in outcomes) == 6


def test_dropping_a_job_frees_its_slots_by_the_next_step() -> None:
    engine = make_engine()
    engine.admit(job_of("long", steps=200, preview_every=1))
    engine.admit(job_of("other", steps=30))
    for _ in range(6):
        engine.turn()
    engine.drop("long")
    outcomes = play(engine)
    assert {o.rows for o in outcomes if isinstance(o, Called)} == {2}
    assert {job for job, _ in finished(outcomes)} == {"other"}
    assert not any(isinstance(o, Stepped) and o.job_id == "long" for o in outcomes)
    engine.drop("never seen")


@EITHER
def test_a_dropped_job_is_gone_at_every_stage(as_gpu: bool) -> None:
    for turns in count():
        engine = make_engine(as_gpu=as_gpu)
        engine.admit(job_of("a", steps=2, preview_every=1))
        for _ in range(turns):
            engine.turn()
        if not engine.busy:
            break
        engine.drop("a")
        assert as_gpu or not engine.busy
        assert all(isinstance(outcome, Called) for outcome in play(engine))  # of a call that it was in
        assert all(left is None for left in (engine._call, engine._chunk))  # they would hold its model
    assert turns >= 5


@EITHER
def test_a_missed_deadline_ends_its_job_alone(as_gpu: bool) -> None:
    now = [0.0]
    engine = make_engine(as_gpu=as_gpu, clock=lambda: now[0])
    request = make_request(steps=20, deadline_ms=5000)
    engine.admit(Admission("late", request, deadline=5.0))
    engine.admit(job_of("other", steps=20))
    outcomes: list[Outcome] = []
    while engine.busy:
        now[0] += 1.0
        outcomes += engine.turn()
    [failed] = [o for o in outcomes if isinstance(o, Aborted)]
    assert (failed.job_id, type(failed.error), failed.error.value) == ("late", DeadlineMissed, 5000)
    assert ("other", 0) in finished(outcomes)


def test_room_counts_what_waits() -> None:
    engine = make_engine(max_rows=8)
    assert (engine.capacity("paint"), engine.capacity("paint", "bulk")) == (8, 4)
    engine.admit(job_of("a", num_images=4))
    assert (engine.capacity("paint"), engine.capacity("paint", "bulk")) == (4, 0)
    engine.turn()
    assert (engine.capacity("paint"), engine.capacity("up")) == (4, 8)
    engine.admit(job_of("b"))
    engine.isolate("b")
    assert engine.capacity("up") == 0


def test_an_isolated_job_shares_no_call() -> None:
    engine = make_engine()
    for job in (job_of("isolated", steps=5), job_of("b", steps=5), job_of("c", steps=3)):
        engine.admit(job)
    engine.isolate("isolated")
    outcomes = play(engine)
    assert len(finished(outcomes)) == 3
    assert {o.slots for o in outcomes if isinstance(o, Called)} == {1, 2}
    steps = [o.job_id for o in outcomes if isinstance(o, Stepped)]
    assert steps[:5] == ["isolated"] * 5


def test_while_a_job_is_isolated_nothing_of_the_others_is_touched_until_it_rejoins() -> None:
    engine = make_engine()
    for job in (job_of("a", steps=2), job_of("b", steps=9)):
        engine.admit(job)
    while not any(isinstance(outcome, Called) for outcome in engine.turn()):
        pass
    engine.admit(job_of("waits", steps=9))
    engine.admit(job_of("isolated", steps=40))
    engine.isolate("isolated")
    touched = {getattr(outcome, "job_id", "isolated") for _ in range(20) for outcome in engine.turn()}
    assert touched == {"isolated"}
    engine.rejoin()
    assert len(finished(play(engine))) == 4


def test_bad_requests_are_refused_at_admission() -> None:
    engine = make_engine()
    with pytest.raises(JobFailed, match="nowhere"):
        engine.admit(job_of("a", model="nowhere"))
    with pytest.raises(InvalidRequest) as caught:
        engine.admit(job_of("a", sampler="magic"))
    assert caught.value.field == "sampler"
    with pytest.raises(InvalidRequest) as caught:
        engine.admit(job_of("a", kind="inpaint"))
    assert caught.value.field == "image"
    with pytest.raises(InvalidRequest):
        engine.admit(job_of("a", width=100_000, height=100_000))
    assert not engine.busy


class _Watchful:
    """A model that notes whether its networks run without gradients."""

    def __init__(self, model: LatentDiffusion) -> None:
        self._model = model
        self.modes: dict[str, bool] = {}

    def __getattr__(self, name: str) -> object:
        part = getattr(self._model, name)
        if name not in ("predict", "decode", "encode_prompts", "encode_images"):
            return part

        def called(*given: object, **named: object) -> object:
            self.modes[name] = torch.is_inference_mode_enabled()
            return part(*given, **named)

        return called


def test_every_network_runs_in_inference_mode() -> None:
    watchful = _Watchful(tiny_models()["paint"])
    models: dict[str, LatentDiffusion] = {"paint": watchful}  # type: ignore[dict-item]  # it answers as one
    job = admitted("b", make_request(kind="img2img", image=NOWHERE, strength=0.5), {"image": picture_bytes()})
    assert failures(play(make_engine(models), [job_of("a", preview_every=1), job])) == {}
    assert watchful.modes == dict.fromkeys(("predict", "decode", "encode_prompts", "encode_images"), True)


@EITHER
def test_nan_latents_fail_their_job_alone(as_gpu: bool) -> None:
    faulty, models = faulty_models()
    faulty.nan_at = compile_plan("ddim", faulty.schedule, 7).rows[3].t
    outcomes = play(make_engine(models, as_gpu=as_gpu), [job_of("bad", steps=7, num_images=2), job_of("good", steps=8)])
    assert failures(outcomes) == {"bad": "NaN or infinite latents at step 7 of 14"}
    assert list(finished(outcomes)) == [("good", 0)]


@EITHER
def test_nan_in_the_last_step_of_a_first_pass_fails_its_job_alone(as_gpu: bool) -> None:
    faulty, models = faulty_models()
    faulty.nan_at = compile_plan("ddim", faulty.schedule, 7).rows[-1].t
    second = Hires(scale=2.0, strength=0.5, steps=8, upscaler="latent")
    engine = make_engine(models, as_gpu=as_gpu)
    outcomes = play(engine, [job_of("bad", steps=7, hires=second), job_of("good", steps=8, sampler="euler")])
    assert failures(outcomes) == {"bad": "NaN or infinite latents at step 7 of 11"}
    assert list(finished(outcomes)) == [("good", 0)]


def test_other_errors_of_a_network_are_not_hidden() -> None:
    faulty, models = faulty_models()
    engine = make_engine(models)
    faulty.predict = lambda *_, **__: 1 / 0  # type: ignore[assignment, method-assign]
    engine.admit(job_of("a"))
    engine.turn()
    with pytest.raises(ZeroDivisionError):
        engine.turn()


def test_run_answers_all_pictures_or_raises() -> None:
    engine, seen = make_engine(), list[Outcome]()
    pictures = run(engine, job_of("a", num_images=3), seen.append)
    assert [picture.size for picture in pictures] == [(64, 64)] * 3
    assert isinstance(seen[-1], Finished)
    with pytest.raises(DeadlineMissed):
        run(engine, Admission("b", make_request(deadline_ms=1), deadline=0.0), seen.append)
