"""What /metrics tells of queues: whose jobs count as waiting, and since when."""

from __future__ import annotations

from datetime import timedelta

import httpx2
from redis import Redis
from rq.utils import utcformat

from contract.redis_keys import JOBS_KEY, queued_job_key, refused_key, serving_key, serving_member
from core.clock import CLOCK
from jobs.cancel import cancel
from jobs.end import HandedBack, Publisher
from tests.enqueue import enqueue, make_request
from tests.unit.workers.parts import RETENTION, make_claims, make_worker
from workers.claim_policy import ModelLane

LANE = '{lane="interactive",model="painter"}'
LANES: tuple[ModelLane, ...] = (("painter", "interactive"),)


def told(client: httpx2.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{LANE} "))


def serves(redis: Redis, worker: str) -> None:
    redis.zadd(serving_key("painter"), {serving_member(worker, "Card@2"): CLOCK.unix() + 600})


def test_jobs_that_every_live_worker_leaves_are_parked(client: httpx2.Client, redis: Redis) -> None:
    enqueue(redis, "new", make_request("painter"), version=99)
    redis.hset(queued_job_key("new"), "enqueued_at", utcformat(CLOCK.now() - timedelta(hours=1)))
    assert (told(client, "latentd_queue_depth"), told(client, "latentd_jobs_parked")) == (1, 0), "no worker lives"
    for name in ("one", "two"):
        serves(redis, name)
        assert told(client, "latentd_jobs_parked") == 0, f"{name} may run it"
        assert told(client, "latentd_queue_oldest_seconds") >= 3600
        assert make_claims(make_worker(redis, name), ("painter",)).next(LANES) is None
        redis.persist(refused_key(name))  # as beats have it
    enqueue(redis, "ours", make_request("painter"))
    assert (told(client, "latentd_queue_depth"), told(client, "latentd_jobs_parked")) == (1, 1)
    assert told(client, "latentd_queue_oldest_seconds") < 60
    serves(redis, "three")
    assert (told(client, "latentd_queue_depth"), told(client, "latentd_jobs_parked")) == (2, 0)
    redis.zrem(serving_key("painter"), serving_member("three", "Card@2"))
    assert cancel(redis, RETENTION, "new") == "canceled"
    assert (told(client, "latentd_queue_depth"), told(client, "latentd_jobs_parked")) == (1, 0)


def test_a_job_that_came_back_waits_from_then_on(client: httpx2.Client, redis: Redis) -> None:
    enqueue(redis, "a", make_request("painter"))
    an_hour_ago = CLOCK.now() - timedelta(hours=1)
    redis.zadd(JOBS_KEY, {"a": 1000 * an_hour_ago.timestamp()})
    redis.hset(queued_job_key("a"), "enqueued_at", utcformat(an_hour_ago))
    assert told(client, "latentd_queue_oldest_seconds") >= 3600
    worker = make_worker(redis)
    run = make_claims(worker, ("painter",)).next(LANES)
    assert run is not None
    assert Publisher(worker, redis, RETENTION).end(run, HandedBack())
    assert told(client, "latentd_queue_depth") == 1
    assert told(client, "latentd_queue_oldest_seconds") < 60
    enqueue(redis, "b", make_request("painter"))  # behind it, and longer there
    redis.hset(queued_job_key("b"), "enqueued_at", utcformat(an_hour_ago))
    assert told(client, "latentd_queue_oldest_seconds") >= 3600
