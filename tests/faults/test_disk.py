"""Full disks: real ones, small file systems in memory. Mounting them needs root."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from core.settings import Settings
from tests.disks import small_disk
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.integration.rig import Rig
from tests.service import Service
from tests.waits import wait_for

MB = 1024 * 1024


def fill(ballast: Path, leave: int = 0) -> None:
    """Write until the disk has no more than `leave` bytes."""
    with ballast.open("wb", buffering=0) as file:
        size = MB
        while size:
            try:
                while file.write(bytes(size)) == size:
                    pass
                size //= 2
            except OSError:
                size //= 2
        file.truncate(max(0, file.tell() - leave))


def test_a_job_whose_image_does_not_fit_fails_clearly_and_the_next_one_succeeds(
    redis: Redis, settings: Settings, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        rig = Rig(redis, settings.model_copy(update={"storage_url": str(disk / "objects")}))
        fill(disk / "ballast")
        enqueue(redis, "full", make_request(width=256, height=256))
        assert rig.finish("full") == ["failed"]
        problem = json.loads(job_state(redis, "full")["error"])
        assert (problem["status"], problem["detail"]) == (507, "no space is left for the image")
        (disk / "ballast").unlink()
        enqueue(redis, "room", make_request(width=256, height=256))
        assert rig.finish("room") == ["succeeded"]
        rig.close()


@pytest.mark.timeout(600)
def test_redis_comes_back_with_every_job_once_there_is_room(tiny_models: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 24) as disk:
        env = {"LATENTD_MODELS_DIR": str(tiny_models), "LATENTD_MODEL": "tiny", "LATENTD_MIN_FREE_MB": "1"}
        service = Service(env | {"LATENTD_DATA_DIR": str(disk / "data"), "LATENTD_THREADS": "1"})
        with service:
            # Long enough that none stores an image while there is no room: it would fail clearly, with a 507.
            body = {"prompt": "red heart", "steps": 1000, "num_images": 2, "width": 256, "height": 256}
            accepted = [accept(service, body) for _ in range(2)]
            fill(disk / "ballast")
            answer = service.client.post("/v1/txt2img", json=body)
            assert answer.status_code in (503, 507), answer.text
            log = service.log_path.read_text
            wait_for(lambda: '"child": "redis"' in log(), 60, "Redis's exit")
            time.sleep(3)  # it tries, and there is still no room
            (disk / "ballast").unlink()
            wait_for(lambda: statuses(service, accepted) == {"succeeded"}, 400, "all jobs")
            with Redis.from_url(f"unix://{disk}/data/redis/redis.sock") as redis:
                for job_id in accepted:
                    assert event_types(redis, job_id).count("succeeded") == 1
            assert service.client.post("/v1/txt2img", json=body).status_code == 202


def accept(service: Service, body: dict[str, Any]) -> str:
    answer = service.client.post("/v1/txt2img", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def statuses(service: Service, job_ids: list[str]) -> set[str]:
    """How the jobs stand; unknown while Redis is away."""
    answers = [service.client.get(f"/v1/jobs/{job_id}") for job_id in job_ids]
    return {answer.json()["status"] if answer.status_code == 200 else "unknown" for answer in answers}
