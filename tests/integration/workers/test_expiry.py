from __future__ import annotations

import time

from redis import Redis
from rq.utils import as_text

from contract.job import TERMINAL
from contract.redis_keys import LAYOUT_KEY, gone_key, lease_key, wake_key
from core.settings import Settings
from jobs.end import Retention
from tests.enqueue import enqueue, job_state, make_request
from tests.integration.rig import Rig, cancel
from workers.objects.sweep import Sweeper

KEEP_S = 1
JOBS = ("good", "bad", "tardy", "gone")


def test_expired_jobs_leave_no_object_and_no_key_but_their_410(redis: Redis, settings: Settings) -> None:
    """Ended in every way, after real seconds."""
    rig = Rig(redis, settings.model_copy(update={"retention_s": KEEP_S, "gone_s": 60}), save_s=0)
    enqueue(redis, "good", make_request(num_images=2, steps=20, preview_every=5))
    enqueue(redis, "bad", make_request(sampler="none such"))
    enqueue(redis, "tardy", make_request(steps=900, deadline_ms=300))
    enqueue(redis, "gone", make_request(steps=900))
    rig.until(lambda: rig.step("gone") > 0)
    cancel(redis, "gone")
    rig.until(lambda: all(_has_ended(redis, job_id) for job_id in JOBS))
    rig.close()
    time.sleep(KEEP_S + 0.5)
    assert Sweeper(redis, rig.store, Retention(KEEP_S, 60)).expire() == 4
    rig.reaper.turn()
    rig.worker.leave()
    assert rig.objects() == []
    left = {as_text(key) for key in redis.keys("*")}
    left -= {key for key in left if key.startswith((lease_key(""), wake_key("")))}  # of queues, however many jobs
    ours = {gone_key(job_id) for job_id in JOBS}
    assert ours <= left
    assert {key for key in left - ours if any(job in key for job in JOBS)} == set()
    assert left - ours <= {LAYOUT_KEY, "rq:workers", "rq:worker:rig", "rq:queues", "rq:worker:rig:executions"}


def _has_ended(redis: Redis, job_id: str) -> bool:
    """Whether a job is at its end; on a busy machine the record of one may be gone before another has ended."""
    state = job_state(redis, job_id)
    return not state or state["status"] in TERMINAL
