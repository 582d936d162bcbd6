from __future__ import annotations

import os
import subprocess
import sys
import time

from redis import Redis

from core.settings import Settings
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.integration.rig import Rig
from workers.heartbeat import HUNG_EXIT

HANG_S = 1.0


def test_a_worker_whose_device_hangs_ends_itself_and_its_job_goes_on(
    redis: Redis, settings: Settings, rig: Rig
) -> None:
    environment = os.environ | {
        "REDIS_URL": settings.redis,
        "LATENTD_MODELS_DIR": str(settings.models_dir),
        "LATENTD_DATA_DIR": str(settings.data_dir),
        "LATENTD_THREADS": "1",
        "LATENTD_HANG_S": str(HANG_S),
    }
    enqueue(redis, "a", make_request(steps=20))
    command = [sys.executable, "-m", "tests.faults.hanging"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == HUNG_EXIT, ended.stderr
    assert "the loop hangs" in ended.stderr
    assert '"jobs": ["a"]' in ended.stderr
    assert rig.reaper.turn() == 1
    assert job_state(redis, "a")["deaths"] == "1"
    assert rig.finish("a") == ["succeeded"]
    assert event_types(redis, "a").count("succeeded") == 1


def test_an_idle_loop_and_one_that_turns_do_not_hang(redis: Redis, rig: Rig) -> None:
    time.sleep(0.1)
    assert rig.loop.round_s() == 0
    enqueue(redis, "a", make_request(steps=1000))
    rig.until(lambda: rig.step("a") > 3)
    assert 0 < rig.loop.round_s() < HANG_S
    rig.loop.stop(0)
    rig.loop.run()
