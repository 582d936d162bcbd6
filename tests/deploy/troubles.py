"""Everything that the boards show, made to happen on a running service: load, refusals, failures, lost workers."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from core.pictures import lossless
from tests.service import Service
from tests.waits import wait_for

# Bytes that a worker may still map: more than sixteen rows of LARGE need; then less.
HEADROOM, NOTCH = 24 * 2**20, 2**20
# Freed tensors return to the system at once, so that what is mapped is what is used.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "LATENTD_DTYPE": "float32"}
LARGE: dict[str, Any] = {"width": 640, "height": 640, "steps": 2, "guidance_scale": 4.0}


def post(service: Service, **fields: Any) -> str:
    """Enqueue a picture; the job's id."""
    answer = service.client.post("/v1/txt2img", json={"prompt": "red heart", **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def post_upscale(service: Service) -> str:
    """Enqueue a small picture to be made larger; the job's id."""
    picture = lossless(Image.new("RGB", (32, 32), (200, 0, 0)))
    answer = service.client.post("/v1/upscale", files={"image": ("a.png", picture, "image/png")})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status(service: Service, job_id: str) -> str:
    return str(service.client.get(f"/v1/jobs/{job_id}").json()["status"])


def finish(service: Service, *job_ids: str, seconds: float = 200.0) -> list[str]:
    """Wait until the jobs have ended; how they did."""
    ended = ("succeeded", "failed", "canceled")
    wait_for(lambda: all(status(service, job_id) in ended for job_id in job_ids), seconds, "the end of the jobs")
    return [status(service, job_id) for job_id in job_ids]


def draw_some(service: Service) -> None:
    """Pictures of every kind, in both lanes."""
    jobs = [post(service, steps=8, priority=lane) for lane in ("interactive", "bulk") for _ in range(4)]
    jobs.append(post_upscale(service))
    assert set(finish(service, *jobs)) == {"succeeded"}


def refuse_some(service: Service) -> None:
    """Bad requests, unknown ids, strange paths and methods: labels stay bounded."""
    assert service.client.post("/v1/txt2img", json={"prompt": "x", "steps": 0}).status_code == 422
    for number in range(16):
        assert service.client.get(f"/v1/jobs/{number:032x}").status_code == 404
        service.client.get(f"/some/path/{number}")
        service.client.request(f"METHOD{number}", "/v1/jobs")
        service.client.post("/v1/txt2img", json={"prompt": "x", "model": f"model-{number}"})


def cancel_one(service: Service) -> None:
    """A job that has begun."""
    job_id = post(service, steps=1000, num_images=4)
    wait_for(lambda: status(service, job_id) == "running", 30, "the start of a job")
    service.client.delete(f"/v1/jobs/{job_id}")
    assert finish(service, job_id) == ["canceled"]


def lose_an_upload(service: Service) -> None:
    """A job that fails, at its worker; it stands still meanwhile, and another is cancelled before it has begun."""
    (worker,) = service.named("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        job_id = post_upscale(service)
        shutil.rmtree(service.folder / "data" / "objects" / "uploads" / job_id)
        assert service.client.delete(f"/v1/jobs/{post(service, steps=4)}").json()["status"] == "canceled"
    finally:
        os.kill(worker, signal.SIGCONT)
    assert finish(service, job_id) == ["failed"]


def kill_a_worker(service: Service) -> str:
    """kill -9 while it holds a job; the job's id, which is queued again within 20 s."""
    job_id = post(service, steps=300)
    wait_for(lambda: status(service, job_id) == "running", 30, "the start of a job")
    (worker,) = service.named("worker")
    os.kill(worker, signal.SIGKILL)
    service.wait_until_served(worker)
    return job_id


def split_a_batch(service: Service) -> None:
    """Take memory from the worker until a call doesn't fit, then give it back: the job succeeds."""
    # What it encodes is kept, and so is what oneDNN compiles for a size: a lack of memory there isn't told as such.
    assert finish(service, post(service, **LARGE, num_images=8)) == ["succeeded"]
    (worker,) = service.named("worker")
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    room = kept(worker) + HEADROOM
    try:
        # Steps enough that memory is there again before pictures are decoded, of which not even one would fit.
        job_id, seen = post(service, **LARGE | {"steps": 100}, num_images=8), 0
        while "out of memory" not in service.log_path.read_text():
            # A notch after each whole call, however long that takes: the largest is then what doesn't fit first.
            job = service.client.get(f"/v1/jobs/{job_id}").json()
            assert job["status"] in ("queued", "running"), job
            if job["progress"]["step"] >= seen + 2 * 8:
                seen, room = job["progress"]["step"], room - NOTCH
                resource.prlimit(worker, resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(worker, resource.RLIMIT_AS, unlimited)
    assert finish(service, job_id) == ["succeeded"], service.client.get(f"/v1/jobs/{job_id}").json()["error"]


def kept(pid: int) -> int:
    """Bytes that a process maps between jobs: the least within half a second, since the last job may just be going."""
    seen = []
    for _ in range(10):
        seen.append(mapped(pid))
        time.sleep(0.05)
    return min(seen)


def mapped(pid: int) -> int:
    """Bytes of a process's address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def take_storage_away(service: Service) -> None:
    """Its folder is gone for a while; the job waits and succeeds."""
    folder = service.folder / "data" / "objects"
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    folder.write_text("no folder")
    try:
        job_id = post(service, steps=2)
        wait_for(lambda: "storage is away" in service.log_path.read_text(), 60, "an error of storage")
    finally:
        folder.unlink()
        hidden.rename(folder)
    assert finish(service, job_id) == ["succeeded"]
