"""Jobs that workers die with: first in company, then alone, then never again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count

import pytest
from redis import Redis

from service.contract import job_key, state_key
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.integration.rig import Rig
from tests.integration.test_resume import kill

MakeRig = Callable[..., Rig]


@pytest.fixture
def workers(make_rig: MakeRig) -> Iterator[Rig]:
    """Worker after worker, each new."""
    return (make_rig(f"worker-{number}") for number in count())


def die_with(redis: Redis, rig: Rig, job_id: str) -> set[str]:
    """Let a worker run until `job_id` computes, then die; the jobs that it held."""
    rig.until(lambda: job_id in rig.loop._computing)
    held = {held.job_id for held in rig.loop.held()}
    kill(redis, rig)
    return held


def test_a_job_that_kills_its_workers_runs_alone_and_is_quarantined(redis: Redis, workers: Iterator[Rig]) -> None:
    enqueue(redis, "innocent", make_request(steps=12))
    enqueue(redis, "poison", make_request(steps=900))
    company = []
    for _ in range(5):
        rig = next(workers)
        company.append(die_with(redis, rig, "poison"))
        rig.reaper.sweep()
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
    enqueue(redis, "suspect", make_request(steps=300))
    redis.hset(job_key("suspect"), mapping={"deaths": "2", "deaths_alone": "2"})
    enqueue(redis, "other", make_request(steps=3))
    rig = make_rig("worker", save_s=0)
    rig.until(lambda: rig.step("suspect") > 0)
    assert [held.job_id for held in rig.loop.held()] == ["suspect"]
    rig.until(lambda: bool(redis.exists(state_key("suspect"))))
    assert not {"deaths", "deaths_alone", "alone"} & job_state(redis, "suspect").keys()
    rig.until(lambda: job_state(redis, "other")["status"] == "succeeded")
    assert job_state(redis, "suspect")["status"] == "running"


def test_a_suspect_waits_until_the_others_have_ended(redis: Redis, make_rig: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=40))
    rig = make_rig("worker")
    rig.until(lambda: rig.step("running") > 1)
    enqueue(redis, "suspect", make_request(steps=4))
    redis.hset(job_key("suspect"), "deaths", "2")
    enqueue(redis, "later", make_request(steps=4))
    assert rig.finish("suspect") == ["succeeded"]
    assert job_state(redis, "running")["status"] == "succeeded"
    assert rig.finish("later") == ["succeeded"]


def test_a_waiting_suspect_can_be_handed_back(redis: Redis, make_rig: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=900))
    rig = make_rig("worker")
    rig.until(lambda: rig.step("running") > 1)
    enqueue(redis, "suspect", make_request())
    redis.hset(job_key("suspect"), "deaths", "2")
    rig.until(lambda: len(rig.loop.held()) == 2)
    rig.loop.stop(0)
    rig.loop.run()
    assert {job_state(redis, job_id)["status"] for job_id in ("running", "suspect")} == {"queued"}
