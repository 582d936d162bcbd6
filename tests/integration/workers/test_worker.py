from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker.base import BaseWorker

from contract.redis_keys import CANCELING_KEY, events_key, job_key
from contract.request import JobRequest
from contract.uploads import Upload
from core.pictures import lossless
from core.settings import Settings
from core.storage import upload_path
from tests.enqueue import enqueue, event_types, job_state, make_request, open_queue, result_of
from tests.integration.rig import Rig, cancel
from tests.redis_server import RedisServer
from tests.starved import allowance
from workers.engine.engine import Engine
from workers.engine.messages import Admission, Outcome
from workers.queue.circuit_breaker import connect

RQ = str(Path(sys.executable).with_name("rq"))


def upload(rig: Rig, job_id: str, name: str, picture: Image.Image) -> Upload:
    """Put an upload into storage as the gateway does."""
    path, data = upload_path(job_id, name, "0" * 64), lossless(picture)
    rig.store.put(path, data)
    return Upload(path=path, sha256="0", bytes=len(data), width=picture.width, height=picture.height)


def test_a_job_becomes_stored_images_a_result_and_events(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(num_images=2, preview_every=2))
    assert rig.finish("a") == ["succeeded"]
    result, state = result_of(redis, "a"), job_state(redis, "a")
    assert [image.id for image in result.images] == ["a-0", "a-1"]
    assert [image.seed for image in result.images] == [7, 8]
    for index, image in enumerate(result.images):
        data = bytes(rig.store.get(f"images/a/{result.execution}/{index}.png").bytes())
        assert len(data) == image.bytes
        assert Image.open(io.BytesIO(data)).size == (image.width, image.height) == (64, 64)
    assert (state["step"], state["steps"]) == ("8", "8")
    types = event_types(redis, "a")
    assert types[:2] == ["queued", "started"]
    assert types[-3:] == ["image", "image", "succeeded"]
    timings = result.timings
    assert None not in (timings.queue_s, timings.denoise_s, timings.decode_s, timings.store_s)
    assert rig.loop.runs() == []
    assert rig.worker.get_state() == "idle"


def test_inpaint_reads_its_uploads(redis: Redis, rig: Rig) -> None:
    picture = Image.new("RGB", (70, 50), "orange")
    mask = Image.new("L", (70, 50), 0)
    mask.paste(255, (10, 10, 40, 40))
    request = make_request(
        kind="inpaint",
        width=70,
        height=50,
        image=upload(rig, "a", "image", picture),
        mask=upload(rig, "a", "mask", mask),
        mask_mode="white",
        feather=0,
        strength=1.0,
    )
    enqueue(redis, "a", request)
    assert rig.finish("a") == ["succeeded"]
    execution = result_of(redis, "a").execution
    answer = Image.open(io.BytesIO(bytes(rig.store.get(f"images/a/{execution}/0.png").bytes())))
    assert answer.size == (70, 50)
    assert answer.getpixel((0, 0)) == picture.getpixel((0, 0))


def test_a_lost_upload_fails_that_job_alone(redis: Redis, rig: Rig) -> None:
    missing = Upload(path="uploads/a/image", sha256="0", bytes=1, width=16, height=16)
    upscale = make_request(model="tiny-upscale", kind="upscale", image=missing)
    enqueue(redis, "a", upscale)
    enqueue(redis, "b", make_request())
    assert rig.finish("a", "b") == ["failed", "succeeded"]
    assert json.loads(job_state(redis, "a")["error"])["field"] == "image"


def test_success_failure_cancel_and_deadline_end_alone_in_a_shared_batch(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "good", make_request(steps=30))
    enqueue(redis, "gone", make_request(steps=900))
    enqueue(redis, "late", make_request(steps=900, deadline_ms=300))
    enqueue(redis, "bad", make_request(steps=30, sampler="none such"))
    rig.until(lambda: rig.step("gone") > 0)
    cancel(redis, "gone")
    statuses = rig.finish("good", "gone", "late", "bad")
    assert statuses == ["succeeded", "canceled", "failed", "failed"]
    assert json.loads(job_state(redis, "late")["error"])["status"] == 504
    queue = open_queue(redis, make_request())
    assert FinishedJobRegistry(queue=queue).get_job_ids() == ["good"]
    assert sorted(FailedJobRegistry(queue=queue).get_job_ids()) == ["bad", "late"]
    assert CanceledJobRegistry(queue=queue).get_job_ids() == ["gone"]
    assert StartedJobRegistry(queue=queue).count == 0
    assert rig.sample("latentd_step_rows_bucket", model="tiny", le="1.0") < rig.sample(
        "latentd_step_rows_count", model="tiny"
    )
    for outcome, count in (("succeeded", 1), ("failed", 2), ("canceled", 1)):
        labels = {"kind": "txt2img", "model": "tiny", "lane": "interactive", "outcome": outcome}
        assert rig.sample("latentd_jobs_total", **labels) == count


def test_cancelling_a_running_job_frees_its_slot_by_the_next_step(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "long", make_request(steps=200, guidance_scale=3.0))
    rig.until(lambda: rig.step("long") >= 3)
    capacity = rig.engine.capacity("tiny")
    cancel(redis, "long")
    calls = rig.sample("latentd_step_seconds_count", model="tiny")
    rig.until(lambda: job_state(redis, "long")["status"] == "canceled")
    assert rig.sample("latentd_step_seconds_count", model="tiny") - calls <= 1
    assert rig.engine.capacity("tiny") > capacity
    assert not rig.engine.busy
    assert rig.sample("latentd_slots_in_use", model="tiny") == 0
    assert redis.scard(CANCELING_KEY) == 0


def test_a_job_cancelled_before_its_claim_never_starts(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request())
    redis.hset(job_key("a"), "cancel", "1")
    assert rig.finish("a") == ["canceled"]
    assert rig.objects() == []
    assert rig.sample("latentd_step_seconds_count", model="tiny") == 0


def test_rq_sees_what_runs(redis: Redis, redis_url: str, rig: Rig) -> None:
    for job_id in "abc":
        enqueue(redis, job_id, make_request(steps=200))
    rig.until(lambda: all(rig.step(job_id) > 0 for job_id in "abc"))
    queue = open_queue(redis, make_request())
    told = subprocess.run([RQ, "info", "--raw", "--url", redis_url], capture_output=True, text=True, check=True).stdout
    assert "queue latentd.tiny.interactive 0, 3 executing, 0 finished, 0 failed" in told
    assert re.search(r"^worker rig .*busy", told, re.MULTILINE)
    assert "heart" not in told
    seen = BaseWorker.all(connection=redis)[0]
    assert (seen.get_state(), len(seen.get_current_executions())) == ("busy", 3)
    assert sorted(StartedJobRegistry(queue=queue).get_job_ids()) == ["a", "b", "c"]
    assert queue.count == 0
    for job_id in "abc":
        cancel(redis, job_id)
    rig.finish("a", "b", "c")
    enqueue(redis, "d", make_request())
    rig.finish("d")
    seen = BaseWorker.all(connection=redis)[0]
    assert (seen.get_state(), seen.get_current_executions()) == ("idle", [])
    assert (seen.successful_job_count, seen.failed_job_count) == (1, 0)


def test_an_execution_that_lost_its_job_leaves_nothing(redis: Redis, make_rig: Callable[[str], Rig]) -> None:
    first, second = make_rig("first"), make_rig("second")
    enqueue(redis, "a", make_request(steps=400))
    first.until(lambda: first.step("a") > 2)
    redis.delete(first.loop.runs()[0].execution.key)
    assert second.reaper.turn() == 1
    assert second.finish("a") == ["succeeded"]
    first.until(lambda: not first.loop.runs())
    first.storing.close()
    execution = result_of(redis, "a").execution
    assert first.objects() == [f"images/a/{execution}/0.png"]
    types = event_types(redis, "a")
    assert (types.count("started"), types.count("succeeded"), types[-1]) == (1, 1, "succeeded")


def test_stopping_drains_what_ends_in_time(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(steps=10))
    rig.until(lambda: rig.step("a") > 0)
    enqueue(redis, "b", make_request())
    rig.loop.stop(20)
    rig.loop.run()
    assert job_state(redis, "a")["status"] == "succeeded"
    assert job_state(redis, "b")["status"] == "queued"


def test_stopping_hands_the_rest_back_in_front_in_order(redis: Redis, rig: Rig) -> None:
    for job_id in "abc":
        enqueue(redis, job_id, make_request(steps=1000))
    rig.until(lambda: all(rig.step(job_id) > 0 for job_id in "abc"))
    enqueue(redis, "d", make_request())
    rig.loop.stop(0)
    rig.loop.run()
    queue = open_queue(redis, make_request())
    assert queue.get_job_ids() == ["a", "b", "c", "d"]
    assert StartedJobRegistry(queue=queue).count == 0
    job = Job.fetch("a", connection=redis, serializer=JSONSerializer)
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, 1000)
    assert job_state(redis, "a")["status"] == "queued"


def test_stopping_at_a_silent_redis_ends_before_its_grace_does(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job that is saved waits for as long as Redis may: all of them together get no more than the half of it."""
    for module in ("jobs.worker", "workers.queue.circuit_breaker"):
        monkeypatch.setattr(f"{module}.ANSWER_S", 1.0)  # each answer is waited for twice
    monkeypatch.setattr("workers.loop.HAND_BACK_S", 0.5)
    names = "abcdefgh"
    with RedisServer() as server, server.connect() as redis:
        rig = Rig(connect(server.url), settings)
        for job_id in names:
            enqueue(redis, job_id, make_request(steps=1000))
        rig.until(lambda: all(rig.step(job_id) > 0 for job_id in names))
        server.signal(signal.SIGSTOP)
        allowed, began = allowance(), time.monotonic()
        rig.loop.stop(0)
        rig.loop.run()
        assert time.monotonic() - began - allowed() < 10
        server.signal(signal.SIGCONT)
        rig.close()


def test_a_job_that_no_engine_can_run_fails_with_its_problem(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(kind="class2img", class_id=0))
    assert rig.finish("a") == ["failed"]
    assert event_types(redis, "a")[-1] == "failed"


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_strict_answers_the_same_bytes_among_neighbours(redis: Redis, rig: Rig, output_format: str) -> None:
    request: JobRequest = make_request(determinism="strict", output_format=output_format, guidance_scale=3.0)
    enqueue(redis, "alone", request)
    rig.finish("alone")
    for index in range(3):
        enqueue(redis, f"n{index}", make_request(steps=9 + index, seed=index))
    enqueue(redis, "among", request)
    rig.finish("among")
    assert result_of(redis, "alone").images[0].sha256 == result_of(redis, "among").images[0].sha256
    assert "numerics" in job_state(redis, "among")


class Fault(Engine):
    """An engine with a mistake of ours in it: some prompts raise what nobody expected."""

    poison = ""
    poisoned: frozenset[str] = frozenset()

    def admit(self, admission: Admission) -> None:
        super().admit(admission)
        if admission.request.text == "unplannable":
            raise IndexError("another mistake")
        if admission.request.text == self.poison:
            self.poisoned |= {admission.job_id}

    def drop(self, job_id: str) -> None:
        super().drop(job_id)
        self.poisoned -= {job_id}

    def turn(self) -> list[Outcome]:
        if self.poisoned:
            raise ZeroDivisionError("a mistake")
        return super().turn()


def test_a_fault_of_ours_fails_the_job_that_has_it_and_no_other(redis: Redis, rig: Rig) -> None:
    rig.engine.__class__ = Fault
    assert isinstance(rig.engine, Fault)
    rig.engine.poison = "poison"
    for index in range(4):
        enqueue(redis, f"j{index}", make_request(prompt="poison" if index == 2 else "red heart"))
    statuses = rig.finish("j0", "j1", "j2", "j3")
    assert statuses == ["succeeded", "succeeded", "failed", "succeeded"]
    assert "mistake" not in job_state(redis, "j2")["error"]
    enqueue(redis, "next", make_request())
    assert rig.finish("next") == ["succeeded"]


def test_a_fault_in_planning_fails_the_job_that_has_it_and_no_other(redis: Redis, rig: Rig) -> None:
    rig.engine.__class__ = Fault
    enqueue(redis, "running", make_request(steps=300))
    rig.until(lambda: rig.step("running") > 1)
    enqueue(redis, "bad", make_request(prompt="unplannable"))
    enqueue(redis, "next", make_request())
    assert rig.finish("running", "bad", "next") == ["succeeded", "failed", "succeeded"]
    assert "mistake" not in job_state(redis, "bad")["error"]
    assert rig.sample("latentd_slots_in_use", model="tiny") == 0


def test_a_part_of_the_way_is_drawn_by_a_sampler_that_asks_twice(redis: Redis, rig: Rig) -> None:
    enqueue(redis, "a", make_request(sampler="heun", steps=20, denoising_end=0.8))
    assert rig.finish("a") == ["succeeded"]


def test_progress_is_told_in_the_steps_that_the_schedule_leaves_of_the_way(redis: Redis, rig: Rig) -> None:
    request = make_request(schedule="karras", steps=20, denoising_end=0.8, num_images=2)
    enqueue(redis, "a", request)
    assert rig.finish("a") == ["succeeded"]
    events = [fields for _, fields in redis.xrange(events_key("a")) or [] if fields]
    told = [json.loads(fields[b"data"]) for fields in events if fields[b"type"] == b"step"]
    run = told[-1]["steps"]
    assert run != request.run_steps, "the estimate takes them as evenly spread"
    assert {each["steps"] for each in told} == {told[-1]["step"]} == {run}
    state = job_state(redis, "a")
    assert (state["step"], state["steps"]) == (str(run), str(run))
