"""A job of two passes on whole workers: broken in each, needing a second model, and told to clients."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.add_ons import AppliedUpscaler, Hires
from contract.job import JobRecord
from contract.redis_keys import CANCELING_KEY, JOBS_KEY, events_key, serving_key, state_key, work_key
from contract.request import JobRequest, parse_request
from contract.stages import models_of
from core.settings import Settings
from core.text import as_text
from models.checkpoints.card import weights_hash
from tests.enqueue import digests, enqueue, job_state, make_request
from tests.integration.conftest import MakeRig
from tests.integration.rig import MODELS, Rig, break_at, shown_steps
from tests.tiny import write_tiny, write_tiny_upscale
from workers.library import loading
from workers.library.catalogue import find_cards
from workers.library.library import offered
from workers.library.loading import choose_dtype

UP = "tiny-upscale"


@cache
def enlarging() -> AppliedUpscaler:
    """The model that all workers here have."""
    with tempfile.TemporaryDirectory() as folder:
        digest = weights_hash(write_tiny_upscale(Path(folder) / UP))
    return AppliedUpscaler(id=UP, hash=digest, scale=4, steps=4, sampler="ddim")


def asked(upscaler: str = "latent", **changes: Any) -> JobRequest:
    by = enlarging() if upscaler == UP else None
    hires = Hires(scale=2.0, strength=0.5, steps=16, upscaler=upscaler, enlarged_by=by)
    return make_request(hires=hires, steps=8, determinism="strict", num_images=2, **changes)


@pytest.mark.parametrize("upscaler", ["latent", "lanczos", UP])
def test_it_resumes_in_either_pass_with_the_bytes_of_an_unbroken_run(
    redis: Redis, make_rig: MakeRig, upscaler: str
) -> None:
    request = asked(upscaler)
    rigs = [make_rig(f"rig-{k}", save_s=0) for k in range(3)]
    enqueue(redis, "whole", request)
    assert rigs[2].finish("whole") == ["succeeded"]
    whole = rigs[2].sample("latentd_denoising_steps_total", model="tiny")
    enqueue(redis, "broken", request)
    assert break_at(redis, rigs[0], "broken", 5) < 16
    hashes = as_text(redis.hget(state_key("broken"), "model") or "").split("+")
    assert len(set(hashes)) == len(models_of(request)), "a state is of the weights of both models"
    rigs[2].reaper.turn()
    assert break_at(redis, rigs[1], "broken", request.run_steps - 6) > 16
    rigs[2].reaper.turn()
    assert rigs[2].finish("broken") == ["succeeded"]
    assert digests(redis, "broken") == digests(redis, "whole")
    assert rigs[2].sample("latentd_denoising_steps_total", model="tiny") < whole * 1.5
    shown = shown_steps(redis, "broken")
    assert shown == sorted(set(shown))
    assert shown[-1] == request.run_steps
    images = json.loads(job_state(redis, "broken")["result"])["images"]
    assert [(image["width"], image["height"]) for image in images] == [(128, 128)] * 2


@pytest.mark.parametrize("told", [True, False])
def test_a_state_of_the_second_pass_of_another_model_is_left_and_the_job_drawn_anew(
    redis: Redis, settings: Settings, make_rig: MakeRig, tmp_path: Path, told: bool
) -> None:
    """The model was replaced by one with other latents; `told`: the savepoint says so by its hash, as it does."""
    write_tiny("plain", tmp_path / "other" / "tiny")
    write_tiny_upscale(tmp_path / "other" / "tiny-upscale")
    other = Rig(redis, settings.model_copy(update={"models_dir": tmp_path / "other"}), "other")
    try:
        enqueue(redis, "whole", asked("lanczos"))
        assert other.finish("whole") == ["succeeded"]
        enqueue(redis, "broken", asked("lanczos"))
        assert break_at(redis, make_rig("rig", save_s=0), "broken", 24) > 16
        if not told:
            hashes = find_cards(tmp_path / "other")
            redis.hset(state_key("broken"), "model", hashes["tiny"][0].hash)
        other.reaper.turn()
        assert other.finish("broken") == ["succeeded"]
    finally:
        other.close()
    assert digests(redis, "broken") == digests(redis, "whole")


def test_it_is_canceled_in_its_second_pass(redis: Redis, make_rig: MakeRig) -> None:
    rig = make_rig("rig")
    enqueue(redis, "a", asked())
    rig.until(lambda: rig.step("a") > 16)
    redis.sadd(CANCELING_KEY, "a")
    assert rig.finish("a") == ["canceled"]
    assert redis.exists(events_key("a"))


def test_it_is_claimed_by_a_worker_that_holds_both_models_alone(
    redis: Redis, settings: Settings, make_rig: MakeRig
) -> None:
    one = Rig(redis, settings, "one", models=("tiny",))
    try:
        enqueue(redis, "two-models", asked(UP))
        enqueue(redis, "one-model", asked())
        assert one.finish("one-model") == ["succeeded"]
        assert job_state(redis, "two-models")["status"] == "queued"
    finally:
        one.close()
    assert make_rig("both").finish("two-models") == ["succeeded"]


def test_it_fails_where_the_model_that_enlarges_was_replaced_since_it_was_accepted(redis: Redis, rig: Rig) -> None:
    request = asked(UP).model_dump(round_trip=True)
    request["hires"]["enlarged_by"]["hash"] = "0" * 64
    enqueue(redis, "a", parse_request(request))
    enqueue(redis, "b", asked(UP))
    assert rig.finish("a", "b") == ["failed", "succeeded"]
    problem = json.loads(job_state(redis, "a")["error"])
    assert (problem["field"], problem["value"], problem["bound"]) == ("hires.upscaler", UP, "0" * 64)
    assert f"0000000000 then, {enlarging().hash[:10]} now" in problem["detail"]


def test_its_second_model_is_loaded_beside_the_first_or_left_to_others(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MIB", 1 << 10)
    dtype = choose_dtype(settings.dtype, "cpu")
    sizes = {name: offered(name, settings.models_dir / name, "cpu", dtype).size >> 10 for name in MODELS}
    room = max(sizes.values()) + 1
    small = Rig(redis, settings.model_copy(update={"models_mb": room}), "small")
    large = Rig(redis, settings.model_copy(update={"models_mb": sum(sizes.values()) + 2}), "large")
    try:
        enqueue(redis, "a", asked(UP))
        for _ in range(20):
            small.loop.round()
        assert job_state(redis, "a")["status"] == "queued"
        del large.library.resident[UP]
        assert large.finish("a") == ["succeeded"]
        assert large.sample("latentd_model_loads_total", model=UP, outcome="succeeded") == 1
    finally:
        small.close()
        large.close()


def test_two_jobs_that_share_the_second_model_do_not_wait_for_each_other(
    redis: Redis, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("one", "two", UP)
    for seed, name in enumerate(names[:2]):
        write_tiny("plain", tmp_path / "models" / name, seed)
    write_tiny_upscale(tmp_path / "models" / UP)
    monkeypatch.setattr(loading, "MIB", 1)
    changed = settings.model_copy(update={"models_dir": tmp_path / "models", "model": "one"})
    dtype = choose_dtype(settings.dtype, "cpu")
    one, _, up = (offered(name, changed.models_dir / name, "cpu", dtype).size for name in names)
    rig = Rig(redis, changed.model_copy(update={"models_mb": one + max(one, up)}), "rig", models=names)
    try:
        assert list(rig.library.resident) == ["one", "two"], "and no room for the model that enlarges"
        for name in names[:2]:
            enqueue(redis, name, asked(UP, model=name))
        assert rig.finish("one", "two") == ["succeeded"] * 2
    finally:
        rig.close()


def test_it_is_posted_as_json_or_a_form_and_belongs_to_what_an_idempotency_key_stands_for(
    client: httpx2.Client, redis: Redis
) -> None:
    sent, once = {"prompt": "red heart", "hires": {"scale": 1.5, "steps": 10}}, {"Idempotency-Key": "k"}
    job = client.post("/v1/txt2img", json=sent, headers=once).json()
    assert job["request"]["hires"] == {"scale": 1.5, "strength": 0.5, "steps": 10, "upscaler": "lanczos"}
    assert (job["progress"], job["request"]["width"]) == ({"step": 0, "steps": 25}, 64)
    assert redis.hget(work_key("painter", "interactive"), job["id"]) == b"txt2img 96 96 14 2 1"
    record = JobRecord.read(job_state(redis, job["id"])["record"])
    assert record.request.run_steps == 25
    form = {"prompt": (None, "red heart"), "hires": (None, '{"scale": 1.5, "steps": 10}')}
    again = client.post("/v1/txt2img", files=form, headers=once)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (job["id"], "true")
    other = client.post("/v1/txt2img", json=sent | {"hires": {"scale": 1.5, "steps": 11}}, headers=once)
    assert other.status_code == 409


def test_what_the_model_can_t_is_refused_by_name_and_nothing_is_enqueued(client: httpx2.Client, redis: Redis) -> None:
    cases = [
        ({"scale": 1.1}, 422, "hires.scale"),
        ({"scale": 4, "upscaler": "latent"}, 422, "hires.scale"),
        ({"upscaler": "painter"}, 404, "hires.upscaler"),
    ]
    for hires, status, field in cases:
        answer = client.post("/v1/txt2img", json={"width": 2048, "height": 1040, "hires": hires})
        assert (answer.status_code, answer.json()["field"]) == (status, field)
        assert answer.json()["bound"]
    assert redis.zcard(JOBS_KEY) == 0


def test_a_model_that_enlarges_must_be_where_the_job_s_own_is(client: httpx2.Client, redis: Redis) -> None:
    def post() -> httpx2.Response:
        return client.post("/v1/txt2img", json={"prompt": "red heart", "hires": {"upscaler": "upscaler"}})

    redis.zadd(serving_key("painter"), {"one@cpu": 2e10})
    assert (post().status_code, post().json()["field"]) == (422, "hires.upscaler")
    redis.zadd(serving_key("upscaler"), {"two@cpu": 2e10})
    assert "which no worker has that runs painter" in post().json()["detail"]
    redis.zadd(serving_key("upscaler"), {"one@cpu": 2e10})
    assert post().status_code == 202
