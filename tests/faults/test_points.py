from __future__ import annotations

import time

import pytest
from redis import Redis
from rq.registry import FinishedJobRegistry, StartedJobRegistry

from contract.redis_keys import state_key
from core.settings import Settings
from jobs.worker import HEARTBEAT_TTL_S
from tests.enqueue import enqueue, event_types, job_state, make_request, open_queue, result_of
from tests.faults import points
from tests.forks import FORKS
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig

SWEEP_S = 1.0
STEPS = 120


def beat(rig: Rig) -> None:
    """What the heartbeat's thread does in a real worker."""
    with rig.redis.pipeline() as pipe:
        for held in rig.loop.runs():
            held.execution.heartbeat(held.job.started_job_registry, HEARTBEAT_TTL_S, pipe)
        pipe.execute()


def go_on(redis: Redis, rig: Rig, job_id: str) -> float:
    """Let another worker sweep and work until the job has succeeded; the seconds that it took."""
    began = swept = time.monotonic()

    def done() -> bool:
        nonlocal swept
        if time.monotonic() - swept > SWEEP_S:
            swept = time.monotonic()
            beat(rig)
            rig.reaper.turn()
        return job_state(redis, job_id)["status"] == "succeeded"

    rig.until(done, 60)
    return time.monotonic() - began


def kill_at(point: str, settings: Settings) -> None:
    """Let a worker work until it dies at this point."""
    victim = FORKS.Process(target=points.run, args=(point, settings))
    victim.start()
    victim.join(60)
    died = victim.exitcode
    victim.kill()  # one that never came to the point would take the jobs of later tests
    victim.join()
    assert died == -9, f"never came to {point}"


@pytest.mark.parametrize("point", points.POINTS)
def test_a_worker_killed_at_this_point_costs_no_job_and_no_byte(
    redis: Redis, settings: Settings, make_rig: MakeRig, point: str
) -> None:
    request, rig = make_request(steps=STEPS, determinism="strict", sampler="plms"), make_rig("rig")
    enqueue(redis, "whole", request)
    rig.finish("whole")
    enqueue(redis, "broken", request)
    kill_at(point, settings)
    assert go_on(redis, rig, "broken") < 30
    result = result_of(redis, "broken")
    assert [image.sha256 for image in result.images] == [image.sha256 for image in result_of(redis, "whole").images]
    assert f"images/broken/{result.execution}/0.png" in rig.objects()
    types = event_types(redis, "broken")
    assert (types.count("started"), types.count("succeeded"), types[-1]) == (1, 1, "succeeded")
    queue = open_queue(redis, request)
    assert sorted(FinishedJobRegistry(queue=queue).get_job_ids()) == ["broken", "whole"]
    assert StartedJobRegistry(queue=queue).count == redis.llen(queue.key) == 0
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_after_a_kill_behind_a_savepoint_the_steps_before_it_are_not_repeated(
    redis: Redis, settings: Settings, make_rig: MakeRig
) -> None:
    rig = make_rig("rig")
    enqueue(redis, "broken", make_request(steps=1000))
    kill_at("savepoint: written", settings)
    saved = int(redis.hget(state_key("broken"), "step") or 0)
    assert saved > 0
    rig.reaper.turn()
    rig.until(lambda: rig.loop.runs() != [] and rig.loop.runs()[0].step > 0)
    assert rig.loop.runs()[0].step >= saved
