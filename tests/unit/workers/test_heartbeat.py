from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

from redis import Redis
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, StartedJobRegistry
from rq.utils import current_timestamp
from rq.worker.base import BaseWorker

from contract.redis_keys import refused_key, serving_key, serving_member, step_times_key
from jobs.run import JobRun
from jobs.worker import HEARTBEAT_TTL_S, BatchWorker
from tests.enqueue import enqueue, job_state, make_request
from tests.faults.proxy import Proxy
from tests.redis_server import RedisServer
from tests.unit.workers.parts import RETENTION, TINY, claim, make_claims, make_worker
from tests.waits import wait_for
from workers.heartbeat import Heartbeat
from workers.queue.circuit_breaker import CircuitBreaker, connect
from workers.queue.reaper import Reaper

MEMBER = serving_member("worker-a", "cpu")


def make_heartbeat(
    worker: BatchWorker, runs: list[JobRun], show: Callable[[Redis], None] = lambda _: None
) -> Heartbeat:
    redis = worker.connection
    return Heartbeat(
        worker,
        redis,
        Reaper(redis, [one.queue for one in runs], RETENTION, worker.name),
        lambda: ["tiny"],
        "cpu",
        runs=lambda: runs,
        times=lambda: {"tiny": {"store@cpu": 0.25}},
        show=show,
    )


def test_a_beat_renews_everything_for_15_seconds(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    for key in (worker.key, run.execution.key):
        redis.expire(key, 1)
    make_heartbeat(worker, [run]).beat()
    for key in (worker.key, run.execution.key):
        assert HEARTBEAT_TTL_S - 2 < int(redis.ttl(key)) <= HEARTBEAT_TTL_S
    assert abs((redis.zscore(serving_key("tiny"), MEMBER) or 0) - current_timestamp() - HEARTBEAT_TTL_S) <= 2
    assert redis.hget(step_times_key("tiny"), "store@cpu") == b"0.25"


def test_what_a_worker_left_to_others_is_known_while_it_beats(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "new", make_request(), version=99)
    assert make_claims(worker).next(TINY) is None
    redis.expire(refused_key(worker.name), 5)
    make_heartbeat(worker, []).beat()
    assert redis.zrange(refused_key(worker.name), 0, -1) == [b"new"]
    assert int(redis.ttl(refused_key(worker.name))) > HEARTBEAT_TTL_S - 2


def test_a_lapsed_execution_is_not_revived(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    redis.zrem(run.job.started_job_registry.key, run.execution.composite_key)
    make_heartbeat(worker, [run]).beat()
    assert StartedJobRegistry(queue=run.queue).count == 0


def test_a_worker_forgotten_by_redis_registers_again(redis: Redis) -> None:
    worker = make_worker(redis)
    shown: list[Redis] = []
    heartbeat = make_heartbeat(worker, [], shown.append)
    heartbeat.turn(CircuitBreaker())
    shown.clear()
    heartbeat.beat()
    heartbeat.turn(CircuitBreaker())
    assert shown == []
    redis.flushall()
    heartbeat.beat()
    heartbeat._beat_due = 0.0
    heartbeat.turn(CircuitBreaker())
    assert shown == [redis]
    assert [one.name for one in BaseWorker.all(connection=redis)] == [worker.name]
    assert 0 < int(redis.ttl(worker.key)) <= HEARTBEAT_TTL_S


def test_a_deleted_job_is_not_made_anew(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    redis.delete(run.job.key)
    make_heartbeat(worker, [run]).beat()
    assert not redis.exists(run.job.key)


def test_workers_that_died_no_longer_serve(redis: Redis) -> None:
    redis.zadd(serving_key("tiny"), {"dead": current_timestamp() - 1})
    make_heartbeat(make_worker(redis), []).beat()
    assert redis.zrange(serving_key("tiny"), 0, -1) == [MEMBER.encode()]


def test_after_an_outage_the_others_are_given_time_to_beat_again(redis: Redis, redis_server: RedisServer) -> None:
    """Their executions have lapsed in it, though they compute on."""
    busy, idle = make_worker(redis, "busy"), make_worker(redis, "idle")
    enqueue(redis, "a", make_request())
    run = claim(busy)
    with Proxy(redis_server.socket) as proxy:
        far = connect(proxy.url)
        heartbeat = Heartbeat(
            idle, far, Reaper(far, [run.queue], RETENTION, idle.name), lambda: [], "cpu", lambda: [], dict
        )
        proxy.refusing = True
        heartbeat.turn(CircuitBreaker(redis=far))
        redis.delete(run.execution.key)
        proxy.refusing = False
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:
            heartbeat.turn(CircuitBreaker(redis=far))
        assert job_state(redis, "a")["status"] == "running"
        heartbeat._sweep_due = 0.0
        heartbeat.turn(CircuitBreaker(redis=far))
        wait_for(lambda: job_state(redis, "a")["status"] == "queued", 10, "a sweep")


class Busy(Reaper):
    """A reaper with more to do than fits into the time that an execution lives without a beat."""

    done: Event

    def turn(self) -> int:
        self.done.wait(60)
        return super().turn()


def test_a_long_sweep_stops_no_heart(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    reaper = Busy(redis, [run.queue], RETENTION, worker.name)
    reaper.done = Event()
    heartbeat = Heartbeat(worker, redis, reaper, lambda: ["tiny"], "cpu", lambda: [run], dict)
    heartbeat.start()
    wait_for(heartbeat._sweeping.is_set, 10, "a sweep")
    redis.expire(run.execution.key, 5)
    heartbeat._beat_due = heartbeat._sweep_due = 0.0
    wait_for(lambda: int(redis.ttl(run.execution.key)) > 5, 10, "a beat")
    reaper.done.set()
    heartbeat.stop()
    assert not heartbeat._sweeper.is_alive()


def test_the_thread_beats_sweeps_and_stops(redis: Redis) -> None:
    worker = make_worker(redis)
    queue = Queue("latentd.tiny.bulk", connection=redis)
    ended = CanceledJobRegistry(queue=queue)
    redis.zadd(ended.key, {"expired": 1})
    heartbeat = Heartbeat(
        worker, redis, Reaper(redis, [queue], RETENTION, worker.name), lambda: ["tiny"], "cpu", lambda: [], dict
    )
    heartbeat.start()
    wait_for(lambda: not redis.zcard(ended.key), 10, "a sweep")
    heartbeat.stop()
    assert not heartbeat.is_alive()
    assert redis.zscore(serving_key("tiny"), MEMBER) is not None
