"""Jobs that end without a worker: cancelled, late or quarantined, by one rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry
from rq.serializers import JSONSerializer

from contract.job import JobRecord
from contract.redis_keys import (
    DEADLINES_KEY,
    OUTBOX_KEY,
    UNSERVED_KEY,
    events_key,
    gone_key,
    isolated_key,
    job_key,
    spent_key,
    work_key,
)
from core.clock import CLOCK
from jobs.cancel import cancel
from jobs.end import HandedBack, Publisher
from jobs.expire import end_late
from jobs.recover import recover, started_entries
from tests.enqueue import enqueue, event_types, job_state, make_request, open_queue
from tests.unit.workers.parts import RETENTION, SHARED, TINY, claim, make_claims, make_worker
from workers.queue.events import EventWriter

REQUEST = make_request(deadline_ms=-1, webhook_url="https://example.org/hook")


def quarantine(redis: Redis, *, newer: bool = False) -> None:
    """Let the third worker die while nothing but the job runs."""
    run = claim(make_worker(redis))
    if newer:
        make_newer(redis, "a")
    redis.hset(job_key("a"), "deaths_alone", "2")
    redis.set(isolated_key("worker-a"), "a")
    (entry,) = started_entries(redis, run.queue)
    assert not recover(redis, run.queue, entry, RETENTION, orphaned=True)


def charge(redis: Redis, seconds: float) -> str:
    """Take GPU-seconds from an owner's budget for job a, as its creation does; the key of what is spent."""
    record = JobRecord.read(job_state(redis, "a")["record"])
    record = record.model_copy(update={"owner": "k1", "charged_s": seconds})
    redis.hset(job_key("a"), "record", record.to_json())
    spent = spent_key("k1", record.created_at)
    redis.set(spent, 10 + seconds)
    return spent


ENDS: dict[str, tuple[str, Callable[[Redis], object]]] = {
    "cancelled": ("canceled", lambda redis: cancel(redis, RETENTION, "a")),
    "late": ("failed", lambda redis: end_late(redis, RETENTION)),
    "quarantined": ("failed", quarantine),
}


@pytest.mark.parametrize(("status", "end"), ENDS.values(), ids=ENDS)
def test_the_end_of_a_job_that_no_worker_has(redis: Redis, status: str, end: Callable[[Redis], object]) -> None:
    enqueue(redis, "a", REQUEST)
    spent = charge(redis, 2.5)
    end(redis)
    assert float(redis.get(spent) or 0) == 10, "it is computed no further"
    assert int(redis.ttl(spent)) > 0
    state = job_state(redis, "a")
    assert state["status"] == status
    assert datetime.fromisoformat(state["ended_at"]) <= CLOCK.now()
    assert event_types(redis, "a")[-1] == status
    assert redis.hgetall(UNSERVED_KEY) == {f"txt2img:tiny:interactive:{status}".encode(): b"1"}
    assert [fields for _, fields in redis.xrange(OUTBOX_KEY) or []] == [{b"job": b"a", b"type": status.encode()}]
    assert redis.get(gone_key("a")) == b"k1"
    for key in (job_key("a"), events_key("a"), "rq:job:a"):
        assert 0 < int(redis.ttl(key)) <= RETENTION.keep_s
    queue = open_queue(redis, REQUEST)
    assert redis.llen(queue.key) == redis.zcard(DEADLINES_KEY) == redis.hlen(work_key("tiny", "interactive")) == 0
    job = Job.fetch("a", connection=redis, serializer=JSONSerializer)
    assert job.get_status() == (JobStatus.CANCELED if status == "canceled" else JobStatus.FAILED)
    assert [CanceledJobRegistry, FailedJobRegistry][status == "failed"](queue=queue).get_job_ids() == ["a"]


def told(redis: Redis, *, handed_back: bool) -> str:
    """Let a worker compute 1.5 s of job a, tell it with a step, and go; the key of what the job's owner has spent."""
    enqueue(redis, "a", make_request(deadline_ms=-1))
    spent, worker = charge(redis, 2.5), make_worker(redis)
    run, events = claim(worker), EventWriter(redis)
    run.encode_s, run.gpu_s = 0.5, 1.0
    events.step(run, 1, {}, SHARED)
    events.write()
    run.gpu_s = 1.25
    if handed_back:
        assert Publisher(worker, redis, RETENTION).end(run, HandedBack())
    else:
        (entry,) = started_entries(redis, run.queue)
        assert recover(redis, run.queue, entry, RETENTION, orphaned=True)
    return spent


@pytest.mark.parametrize(("handed_back", "cost_s"), [(True, 1.75), (False, 1.5)], ids=["handed-back", "worker-died"])
@pytest.mark.parametrize("end", [ENDS["cancelled"][1], ENDS["late"][1]], ids=["cancelled", "late"])
def test_a_job_that_waits_again_has_cost_what_was_computed_of_it(
    redis: Redis, end: Callable[[Redis], object], handed_back: bool, cost_s: float
) -> None:
    spent = told(redis, handed_back=handed_back)
    end(redis)
    assert float(redis.get(spent) or 0) == 10 + cost_s


def test_who_claims_it_again_goes_on_counting(redis: Redis) -> None:
    told(redis, handed_back=True)
    again = claim(make_worker(redis, "worker-b"))
    again.gpu_s, events = 2.0, EventWriter(redis)
    events.step(again, 2, {}, SHARED)
    events.write()
    assert float(job_state(redis, "a")["spent_s"]) == again.spent_s == 3.75


@pytest.mark.parametrize("end", [each[1] for each in ENDS.values()], ids=ENDS)
def test_what_ended_stays_as_it_is(redis: Redis, end: Callable[[Redis], object]) -> None:
    enqueue(redis, "a", REQUEST)
    end(redis)
    before = redis.hgetall(job_key("a"))
    cancel(redis, RETENTION, "a")
    end_late(redis, RETENTION)
    assert redis.hgetall(job_key("a")) == before
    assert redis.hgetall(UNSERVED_KEY).popitem()[1] == b"1"


def test_a_waiting_job_that_rq_lost_can_be_cancelled(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    redis.delete("rq:job:a")
    assert cancel(redis, RETENTION, "a") == "canceled"
    assert not redis.exists("rq:job:a")


def make_newer(redis: Redis, job_id: str) -> None:
    """Let a job's record be one that only a later release can run."""
    record = json.loads(job_state(redis, job_id)["record"])
    record["request"] |= {"kind": "txt2hologram", "depth": 3}
    redis.hset(job_key(job_id), "record", json.dumps(record | {"tenant": 7}))


def test_a_job_of_a_newer_release_outlives_its_worker(redis: Redis) -> None:
    """What moves a job is read by every release; only a claim reads the whole request."""
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    make_newer(redis, "a")
    (entry,) = started_entries(redis, run.queue)
    assert recover(redis, run.queue, entry, RETENTION, orphaned=True)
    assert redis.lrange(run.queue.key, 0, -1) == [b"a"]
    assert make_claims(make_worker(redis, "worker-b")).next(TINY) is None
    assert redis.lrange(run.queue.key, 0, -1) == [b"a"]


def test_a_job_of_a_newer_release_is_cancelled_late_and_quarantined_too(redis: Redis) -> None:
    enqueue(redis, "c", make_request(priority="bulk"), version=99)
    enqueue(redis, "b", REQUEST, version=99)
    enqueue(redis, "a", make_request())
    for job_id in "bc":
        make_newer(redis, job_id)
    assert cancel(redis, RETENTION, "c") == "canceled"
    end_late(redis, RETENTION)
    quarantine(redis, newer=True)
    assert [job_state(redis, job_id)["status"] for job_id in "abc"] == ["failed", "failed", "canceled"]
    assert "3 workers died while nothing but this job ran (txt2hologram on tiny)" in job_state(redis, "a")["error"]
    assert redis.hgetall(UNSERVED_KEY) == {
        b"txt2hologram:tiny:bulk:canceled": b"1",
        b"txt2hologram:tiny:interactive:failed": b"2",
    }
