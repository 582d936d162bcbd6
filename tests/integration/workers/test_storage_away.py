"""While the storage is away a worker keeps what it has drawn in memory, and takes no more than it has slots for."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from redis import Redis

from core.settings import Settings
from tests.enqueue import enqueue, make_request
from tests.integration.rig import Rig

SLOTS = 16  # of guided images: two calls of 16 rows


def test_claims_stop_while_images_wait_for_the_storage(redis: Redis, settings: Settings, rig: Rig) -> None:
    objects = Path(settings.storage)
    shutil.rmtree(objects)
    objects.write_text("a file where the folder was: every call fails")
    jobs = [f"j{index}" for index in range(3 * SLOTS)]
    for job_id in jobs:
        enqueue(redis, job_id, make_request(steps=1, guidance_scale=3.0))

    def full() -> bool:
        assert len(rig.loop.runs()) <= SLOTS
        return len(rig.loop.runs()) == SLOTS and not rig.engine.busy

    rig.until(full)
    ends = time.monotonic() + 2
    while time.monotonic() < ends:
        rig.loop.round()
        assert full()
    objects.unlink()
    objects.mkdir()
    assert set(rig.finish(*jobs)) == {"succeeded"}
    assert rig.storing.waiting("tiny") == 0
