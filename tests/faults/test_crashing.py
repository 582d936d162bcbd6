"""A worker that ends by an exception: its jobs are found as those of one that was killed."""

from __future__ import annotations

import torch
from redis import Redis

from contract.redis_keys import serving_key
from core import logs
from core.settings import Settings
from tests.enqueue import enqueue, job_state, make_request
from tests.forks import FORKS
from tests.integration.rig import Rig
from workers import worker
from workers.engine.engine import Engine
from workers.engine.messages import Outcome
from workers.library import loading
from workers.library.library import ModelLibrary
from workers.signals import Signals


class Failing(Engine):
    """Its device fails in the first turn."""

    def turn(self) -> list[Outcome]:
        raise torch.AcceleratorError("device-side assert triggered")


def failing_of(settings: Settings, library: ModelLibrary) -> Engine:
    engine = loading.engine_of(settings, library)
    engine.__class__ = Failing
    return engine


def crash(settings: Settings) -> None:
    """Serve the tiny model until its device fails."""
    worker.engine_of = failing_of  # type: ignore[attr-defined]  # in this process alone
    logs.configure("critical")
    worker.serve(settings, ["tiny"], "cpu", Signals())


def test_a_worker_whose_device_fails_leaves_its_jobs_to_neighbours_at_once_with_a_death(
    redis: Redis, settings: Settings, rig: Rig
) -> None:
    enqueue(redis, "a", make_request())
    crashing = FORKS.Process(target=crash, args=(settings,))
    crashing.start()
    crashing.join(60)
    assert crashing.exitcode == 1
    state = job_state(redis, "a")
    assert state["status"] == "running"
    assert redis.exists(f"rq:execution:a:{state['execution']}"), "its heartbeats have not lapsed"
    assert redis.zcard(serving_key("tiny")) == 0
    assert rig.reaper.turn() == 1
    assert (job_state(redis, "a")["status"], job_state(redis, "a")["deaths"]) == ("queued", "1")
    assert rig.finish("a") == ["succeeded"]
