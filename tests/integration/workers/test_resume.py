from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import pytest
from PIL import Image
from redis import Redis

from contract.common import Numerics
from contract.job import StoredImage
from contract.redis_keys import state_key, stored_field
from contract.request import JobRequest
from core.settings import Settings
from core.storage import image_path
from core.text import as_text
from jobs.run import JobRun
from tests.enqueue import digests, enqueue, event_types, job_state, make_request, open_queue, result_of
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig, break_at, kill, saved_step, shown_steps
from tests.tiny import SAMPLERS
from workers.queue import savepoints


# Only ddim has an eta; ddpm is its eta = 1 as the original has it.
@pytest.mark.parametrize(("sampler", "eta"), [*((sampler, 0.0) for sampler in SAMPLERS), ("ddim", 1.0)])
def test_a_resumed_strict_job_has_the_bytes_of_an_unbroken_one(
    redis: Redis, make_rig: MakeRig, sampler: str, eta: float
) -> None:
    request = make_request(sampler=sampler, eta=eta, steps=8, determinism="strict", guidance_scale=3.0, num_images=2)
    first, second = make_rig("first", save_s=0), make_rig("second")
    enqueue(redis, "whole", request)
    assert second.finish("whole") == ["succeeded"]
    whole = second.sample("latentd_step_seconds_count", model="tiny")
    enqueue(redis, "broken", request)
    step = break_at(redis, first, "broken", 5)
    assert 5 <= step < 16
    assert second.reaper.turn() == 1
    assert second.finish("broken") == ["succeeded"]
    assert digests(redis, "broken") == digests(redis, "whole")
    assert second.sample("latentd_step_seconds_count", model="tiny") - whole < whole


def test_a_resumed_job_goes_on_where_it_was_and_its_progress_never_goes_back(redis: Redis, make_rig: MakeRig) -> None:
    first, second = make_rig("first", save_s=0), make_rig("second")
    enqueue(redis, "a", make_request(steps=40))
    step = break_at(redis, first, "a", 25)
    assert second.reaper.turn() == 1
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_step_seconds_count", model="tiny") == 40 - step
    steps = shown_steps(redis, "a")
    assert all(after > before for before, after in pairwise(steps))
    assert steps[-1] == 40
    assert event_types(redis, "a").count("started") == 1
    assert not redis.exists(state_key("a"))


def test_a_large_state_goes_through_storage_and_leaves_nothing(
    redis: Redis, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savepoints, "INLINE_BYTES", 64)
    first, second = make_rig("first", save_s=0), make_rig("second", save_s=0)
    enqueue(redis, "a", make_request(steps=40))
    break_at(redis, first, "a", 20)
    assert [path for path in first.objects() if path.startswith("states/a/")] != []
    assert not redis.hexists(state_key("a"), "data")
    second.reaper.turn()
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_step_seconds_count", model="tiny") < 40
    second.close()
    execution = result_of(redis, "a").execution
    assert not [path for path in second.objects() if execution in path and not path.startswith("images/")]


def state_object(redis: Redis, job_id: str) -> str:
    return as_text(redis.hget(state_key(job_id), "path") or "")


def save_at(rig: Rig, job_id: str, step: int) -> tuple[JobRun, bytes]:
    """Let `rig` compute to `step` or later, and save it there; the run and its state."""
    rig.until(lambda: rig.step(job_id) >= step)
    rig.settle()
    [run], state = rig.loop.runs(), rig.engine.snapshot(job_id)
    assert state is not None
    rig.savepoints.write(run, state)
    assert saved_step(rig.redis, job_id) == run.step
    return run, state


def test_a_large_state_that_is_handed_back_at_its_saved_step_is_gone_on_from(
    redis: Redis, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savepoints, "INLINE_BYTES", 64)
    first, second = make_rig("first"), make_rig("second")
    enqueue(redis, "a", make_request(steps=40))
    step = save_at(first, "a", 20)[0].step
    first.loop.stop(0)
    first.loop.run()
    assert saved_step(redis, "a") == step
    assert state_object(redis, "a") in first.objects()
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_step_seconds_count", model="tiny") == 40 - step


def test_a_lost_execution_leaves_the_large_state_that_its_successor_goes_on_from(
    redis: Redis, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(savepoints, "INLINE_BYTES", 64)
    first, second = make_rig("first"), make_rig("second")
    enqueue(redis, "a", make_request(steps=40))
    run, state = save_at(first, "a", 20)
    redis.delete(run.execution.key)
    assert second.reaper.turn() == 1
    first.savepoints.write(run, state)
    assert state_object(redis, "a") in first.objects()
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_step_seconds_count", model="tiny") == 40 - run.step


def test_a_job_that_is_handed_back_is_saved_first(redis: Redis, make_rig: MakeRig) -> None:
    first, second = make_rig("first"), make_rig("second")
    enqueue(redis, "a", make_request(steps=60, num_images=2))
    first.until(lambda: first.step("a") > 20)
    first.loop.stop(0)
    first.loop.run()
    assert job_state(redis, "a")["status"] == "queued"
    assert saved_step(redis, "a") >= 21
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_denoising_steps_total", model="tiny") < 120 - 20


@pytest.mark.parametrize("state", [b"rubbish", b""])
def test_an_unreadable_state_starts_the_job_anew(redis: Redis, make_rig: MakeRig, state: bytes) -> None:
    first, second = make_rig("first", save_s=0), make_rig("second")
    enqueue(redis, "a", make_request(steps=30))
    break_at(redis, first, "a", 10)
    first.savepoints.close()
    redis.hset(state_key("a"), "data", state)
    second.reaper.turn()
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_step_seconds_count", model="tiny") == 30


def test_a_state_of_other_weights_is_not_used(redis: Redis, make_rig: MakeRig) -> None:
    first, second = make_rig("first", save_s=0), make_rig("second")
    enqueue(redis, "a", make_request(steps=30))
    break_at(redis, first, "a", 10)
    first.savepoints.close()
    redis.hset(state_key("a"), "model", "another hash")
    second.reaper.turn()
    assert second.finish("a") == ["succeeded"]
    assert second.sample("latentd_step_seconds_count", model="tiny") == 30


def test_an_execution_that_lost_its_job_saves_nothing(redis: Redis, make_rig: MakeRig) -> None:
    first, second = make_rig("first", save_s=0), make_rig("second")
    enqueue(redis, "a", make_request(steps=30))
    first.until(lambda: first.step("a") > 5)
    first.settle()
    (run,) = first.loop.runs()
    redis.delete(run.execution.key)
    second.reaper.turn()
    step = saved_step(redis, "a")
    run.step = 29
    first.savepoints.write(run, b"late")
    assert (saved_step(redis, "a"), redis.hget(state_key("a"), "data") == b"late") == (step, False)


def test_each_stored_image_can_be_read_before_the_end(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(num_images=2))
    rig.until(lambda: "image" in event_types(redis, "a"))
    state = job_state(redis, "a")
    index = next(k for k in range(2) if stored_field(k) in state)
    stored = StoredImage.model_validate_json(state[stored_field(index)])
    data = bytes(rig.store.get(image_path("a", stored.execution, index, "png")).bytes())
    assert hashlib.sha256(data).hexdigest() == stored.info.sha256


def test_an_image_of_a_lost_execution_stays_while_the_record_names_it(redis: Redis, make_rig: MakeRig) -> None:
    first, second = make_rig("first"), make_rig("second")
    enqueue(redis, "a", make_request(steps=900, num_images=2))
    first.until(lambda: first.step("a") > 2)
    [run] = first.loop.runs()
    first.storing.save(run, 0, Image.new("RGB", (64, 64)))
    first.until(lambda: "image" in event_types(redis, "a"))
    redis.delete(run.execution.key)
    assert second.reaper.turn() == 1
    second.until(lambda: second.step("a") > 0)
    first.until(lambda: not first.loop.runs())
    first.storing.close()
    stored = StoredImage.model_validate_json(job_state(redis, "a")[stored_field(0)])
    assert image_path("a", stored.execution, 0, "png") in second.objects()


def test_a_deadline_passes_while_a_job_waits(redis: Redis, rig: Rig) -> None:
    request: JobRequest = make_request(deadline_ms=1)
    enqueue(redis, "late", request)
    enqueue(redis, "other", make_request(deadline_ms=60_000))
    rig.reaper.turn()
    state = job_state(redis, "late")
    assert (state["status"], json.loads(state["error"])["status"]) == ("failed", 504)
    assert open_queue(redis, request).get_job_ids() == ["other"]
    assert event_types(redis, "late") == ["queued", "failed"]
    assert rig.finish("other") == ["succeeded"]


@pytest.mark.parametrize("save_s", [0, 1000])
def test_a_strict_job_waits_for_its_numerics_only_where_a_savepoint_has_them(
    redis: Redis, settings: Settings, make_rig: MakeRig, save_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade to another build, another kind of card: here another number of rows."""
    monkeypatch.setattr("workers.runs.saving.FIRST_SAVE_S", save_s)
    upgraded = Rig(redis, settings.model_copy(update={"strict_rows": 8}), "upgraded")
    old = make_rig("old", save_s=save_s)
    enqueue(redis, "a", make_request(steps=40, determinism="strict"))
    old.until(lambda: old.step("a") > 2)
    old.settle()
    kill(redis, old)
    assert upgraded.reaper.turn() == 1
    upgraded.loop.round()
    rows = Numerics.model_validate_json(job_state(redis, "a")["numerics"]).rows
    if save_s:
        assert (job_state(redis, "a")["status"], rows) == ("running", 8)
        assert upgraded.finish("a") == ["succeeded"]
    else:
        assert (job_state(redis, "a")["status"], rows) == ("queued", 4)
        assert make_rig("kept").finish("a") == ["succeeded"]
    upgraded.close()
