"""Jobs that workers die with: first in company, then alone, then never again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from redis import Redis

from contract.redis_keys import isolated_key, job_key, state_key
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.integration.rig import Rig
from tests.integration.workers.test_resume import kill

MakeRig = Callable[..., Rig]


@pytest.fixture
def workers(make_rig: MakeRig) -> Iterator[Rig]:
    """Worker after worker, each new."""
    return (make_rig(f"worker-{number}") for number in count())


def die_with(redis: Redis, rig: Rig, job_id: str) -> set[str]:
    """Let a worker run until `job_id` computes, then die; the jobs that it had."""
    rig.until(lambda: rig.engine.snapshot(job_id) is not None)
    running = {run.job_id for run in rig.loop.runs()}
    kill(redis, rig)
    return running


def suspect(redis: Redis, steps: int) -> None:
    """Enqueue a job that two workers died with."""
    enqueue(redis, "suspect", make_request(steps=steps))
    redis.hset(job_key("suspect"), mapping={"deaths": "2", "started_at": "2026-01-01T00:00:00+00:00"})


def test_a_job_that_kills_its_workers_runs_alone_and_is_quarantined(redis: Redis, workers: Iterator[Rig]) -> None:
    enqueue(redis, "innocent", make_request(steps=12))
    enqueue(redis, "poison", make_request(steps=900))
    company = []
    for _ in range(5):
        rig = next(workers)
        company.append(die_with(redis, rig, "poison"))
        rig.reaper.turn()
    assert company[:2] == [{"innocent", "poison"}] * 2
    assert company[2:] == [{"poison"}] * 3
    state = job_state(redis, "poison")
    assert state["status"] == "failed"
    problem = json.loads(state["error"])
    assert "quarantined: 3 workers died" in problem["detail"]
    assert "txt2img on tiny, 64×64" in problem["detail"]
    assert "red heart" not in problem["detail"]
    assert event_types(redis, "poison")[-1] == "failed"
    assert next(workers).finish("innocent") == ["succeeded"]


def test_passing_a_savepoint_clears_a_suspect_and_lets_others_in(redis: Redis, make_rig: MakeRig) -> None:
    suspect(redis, steps=300)
    redis.hset(job_key("suspect"), "deaths_alone", "2")
    enqueue(redis, "other", make_request(steps=3))
    rig = make_rig("worker", save_s=0)
    rig.until(lambda: bool(redis.exists(state_key("suspect"))))
    assert not {"deaths", "deaths_alone"} & job_state(redis, "suspect").keys()
    rig.until(lambda: not redis.exists(isolated_key("worker")))
    rig.until(lambda: job_state(redis, "other")["status"] == "succeeded")
    assert job_state(redis, "suspect")["status"] == "running"


def test_while_a_suspect_runs_the_others_stand_still_saved(redis: Redis, make_rig: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=600))
    rig = make_rig("worker")
    rig.until(lambda: rig.step("running") > 1)
    suspect(redis, steps=200)
    rig.until(lambda: rig.step("suspect") > 0)
    assert redis.get(isolated_key("worker")) == b"suspect"
    assert int(redis.hget(state_key("running"), "step") or 0) > 1
    step = rig.step("running")
    rig.until(lambda: rig.step("suspect") >= 4)
    assert rig.step("running") == step
    assert rig.finish("suspect") == ["succeeded"]
    assert not redis.exists(isolated_key("worker"))
    assert rig.finish("running") == ["succeeded"]


def test_a_death_while_a_suspect_runs_is_not_the_others(redis: Redis, make_rig: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=600))
    rig = make_rig("worker")
    rig.until(lambda: rig.step("running") > 1)
    suspect(redis, steps=900)
    rig.until(lambda: rig.step("suspect") > 0)
    kill(redis, rig)
    assert rig.reaper.turn() == 2
    assert "deaths" not in job_state(redis, "running")
    assert job_state(redis, "suspect")["deaths_alone"] == "1"


def test_a_waiting_suspect_can_be_handed_back(redis: Redis, make_rig: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=900))
    rig = make_rig("worker")
    rig.until(lambda: rig.step("running") > 1)
    suspect(redis, steps=900)
    rig.until(lambda: len(rig.loop.runs()) == 2)
    rig.loop.stop(0)
    rig.loop.run()
    assert {job_state(redis, job_id)["status"] for job_id in ("running", "suspect")} == {"queued"}
