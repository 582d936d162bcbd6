"""Jobs that workers die with: first in company, then alone, then never again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import pytest
import structlog
import torch
from redis import Redis
from redis.exceptions import ResponseError

from contract.redis_keys import CANCELING_KEY, isolated_key, job_key, state_key
from contract.uploads import Upload
from jobs.run import JobRun
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig, kill, saved_step
from workers.engine.conditioning import Conditions
from workers.engine.engine import Engine
from workers.engine.job_spec import JobSpec
from workers.engine.messages import Outcome
from workers.objects.storing import InputsLoaded, Storing

NEVER_S = 1000.0
POISON = Upload(path="uploads/poison", sha256="0" * 64, bytes=1, width=64, height=64)


@pytest.fixture
def make_unsaving(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> MakeRig:
    """Makes workers that save nothing by the clock: it would clear a suspect before a slow machine has looked at it."""
    monkeypatch.setattr("workers.runs.saving.FIRST_SAVE_S", NEVER_S)
    return partial(make_rig, save_s=NEVER_S)


@pytest.fixture
def workers(make_unsaving: MakeRig) -> Iterator[Rig]:
    """Worker after worker, each new."""
    return (make_unsaving(f"worker-{number}") for number in count())


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


class Unreadable(Storing):
    """A storage of which a picture kills who reads it, as a decoder's fault does."""

    reads: Event
    dead: Event

    def _load(self, run: JobRun) -> InputsLoaded:
        self.reads.set()
        self.dead.wait(60)
        return super()._load(run)


def unreadable(rig: Rig) -> Unreadable:
    """Let a worker's storage be one."""
    rig.storing.__class__ = Unreadable
    assert isinstance(rig.storing, Unreadable)
    rig.storing.reads, rig.storing.dead = Event(), Event()
    return rig.storing


def test_a_job_whose_pictures_kill_who_reads_them_is_quarantined(redis: Redis, workers: Iterator[Rig]) -> None:
    enqueue(redis, "innocent", make_request(steps=900))
    enqueue(redis, "poison", make_request(kind="img2img", image=POISON, strength=0.5))
    for _ in range(5):
        rig = next(workers)
        storing = unreadable(rig)
        rig.until(storing.reads.is_set)
        kill(redis, rig)
        storing.dead.set()
        rig.reaper.turn()
    assert "quarantined: 3 workers died" in job_state(redis, "poison")["error"]
    assert job_state(redis, "innocent").get("deaths") in (None, "2")


def test_a_suspect_waits_for_what_is_being_read_of_others(redis: Redis, workers: Iterator[Rig]) -> None:
    """It would be blamed for what kills their reader."""
    enqueue(redis, "reading", make_request(kind="img2img", image=POISON, strength=0.5))
    suspect(redis, steps=4)
    rig = next(workers)
    storing = unreadable(rig)
    rig.until(lambda: len(rig.loop.runs()) == 2)
    for _ in range(20):
        rig.loop.round()
    assert not redis.exists(isolated_key("worker-0"))
    storing.dead.set()
    assert rig.finish("reading", "suspect") == ["failed", "succeeded"]


def test_passing_a_savepoint_clears_a_suspect_and_lets_others_in(redis: Redis, make_rig: MakeRig) -> None:
    suspect(redis, steps=1000)
    redis.hset(job_key("suspect"), "deaths_alone", "2")
    enqueue(redis, "other", make_request(steps=3))
    rig = make_rig("worker", save_s=0)
    rig.until(lambda: bool(redis.exists(state_key("suspect"))))
    assert not {"deaths", "deaths_alone"} & job_state(redis, "suspect").keys()
    rig.until(lambda: not redis.exists(isolated_key("worker")))
    rig.until(lambda: job_state(redis, "other")["status"] == "succeeded")
    assert job_state(redis, "suspect")["status"] == "running"


def test_while_a_suspect_runs_the_others_stand_still_saved(redis: Redis, make_unsaving: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=600))
    rig = make_unsaving("worker")
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


def test_a_death_while_a_suspect_runs_is_not_the_others(redis: Redis, make_unsaving: MakeRig) -> None:
    enqueue(redis, "running", make_request(steps=600))
    rig = make_unsaving("worker")
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


class Deadly(Engine):
    """An engine whose device dies of a prompt, as of an index beyond a table."""

    def _conditions(self, spec: JobSpec) -> Conditions:
        if spec.request.text == "poison":
            raise torch.AcceleratorError("device-side assert triggered")
        return super()._conditions(spec)


def crash(redis: Redis, rig: Rig) -> None:
    """Let a worker run until the device dies; whoever finds it dead counts that."""
    rig.engine.__class__ = Deadly
    with pytest.raises(torch.AcceleratorError):
        rig.loop.run()
    kill(redis, rig)
    rig.reaper.turn()


def test_a_job_that_ends_its_workers_by_an_exception_is_quarantined(redis: Redis, workers: Iterator[Rig]) -> None:
    enqueue(redis, "poison", make_request(prompt="poison"))
    enqueue(redis, "innocent", make_request(steps=400))
    for deaths in ("1", "2"):
        crash(redis, next(workers))
        assert job_state(redis, "poison")["deaths"] == job_state(redis, "innocent")["deaths"] == deaths
    for _ in range(3):
        assert job_state(redis, "poison")["status"] == "queued"
        crash(redis, next(workers))
    assert "quarantined" in job_state(redis, "poison")["error"]
    assert job_state(redis, "innocent").get("deaths") in (None, "2")  # none where it ran alone and passed a savepoint
    assert next(workers).finish("innocent") == ["succeeded"]


class Ending(Engine):
    """An engine whose process is told to end in the middle of a call."""

    fault: BaseException = KeyboardInterrupt()

    def turn(self) -> list[Outcome]:
        done = super().turn()
        if any(job.step > 2 for job in self._jobs.values()):
            raise self.fault
        return done


def check_handed_back(redis: Redis) -> None:
    """It waits for another worker, with what was done of it, and nobody has died."""
    state = job_state(redis, "a")
    assert (state["status"], state.get("deaths")) == ("queued", None)
    assert saved_step(redis, "a") >= 2


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(1)])
def test_who_is_told_to_end_hands_back_and_counts_no_death(redis: Redis, rig: Rig, fault: BaseException) -> None:
    rig.engine.__class__ = Ending
    assert isinstance(rig.engine, Ending)
    rig.engine.fault = fault
    enqueue(redis, "a", make_request(steps=900))
    with pytest.raises(type(fault)):
        rig.loop.run()
    check_handed_back(redis)


def test_a_redis_that_refuses_is_no_death_of_the_jobs(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(steps=900))
    rig.until(lambda: rig.step("a") > 2)
    redis.set(CANCELING_KEY, "of another type: a mistake that no waiting ends")
    with pytest.raises(ResponseError):
        rig.loop.run()
    check_handed_back(redis)


@contextmanager
def full_log() -> Iterator[None]:
    """Meanwhile the disk of the log is full."""
    with suppress(OSError), Path("/dev/full").open("w") as full:  # closing it tries once more
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(full))
        yield
    structlog.reset_defaults()


def test_a_log_whose_disk_is_full_is_no_death_of_the_jobs(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(steps=900))
    rig.until(lambda: rig.step("a") > 2)
    enqueue(redis, "b", make_request())
    with full_log(), pytest.raises(OSError, match="No space"):
        rig.loop.run()
    check_handed_back(redis)
    assert (job_state(redis, "b")["status"], job_state(redis, "b").get("deaths")) == ("queued", None)
