from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp

from contract.events import TRACE
from contract.redis_keys import (
    CANCELING_KEY,
    CARDS_KEY,
    RETRIES_KEY,
    UNSERVED_KEY,
    events_key,
    lease_key,
    serving_key,
    serving_member,
    wake_key,
)
from core.clock import CLOCK
from core.text import as_text
from jobs.cancel import cancel
from jobs.end import HandedBack, Publisher, Succeeded
from jobs.run import JobRun
from jobs.worker import HEARTBEAT_TTL_S
from tests.enqueue import enqueue, job_state, make_request, open_queue
from tests.unit.workers.parts import RETENTION, claim, make_worker
from workers.heartbeat import SWEEP_S
from workers.queue.isolation import announce_isolated
from workers.queue.leases import LEASE_S
from workers.queue.reaper import DEADLINES, STUCK_S, Reaper


def lapse(redis: Redis, run: JobRun) -> None:
    """As if no heartbeat had come for 15 s."""
    redis.delete(run.execution.key)


def test_a_dead_workers_job_is_queued_in_front(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    enqueue(redis, "b", make_request())
    lapse(redis, run)
    assert Reaper(redis, [run.queue], RETENTION, "reaper").turn() == 1
    assert redis.lrange(run.queue.key, 0, -1) == [b"a", b"b"]
    job = Job.fetch("a", connection=redis, serializer=JSONSerializer)
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, 1000)
    assert redis.hget(RETRIES_KEY, "worker_died") == b"1"
    assert job_state(redis, "a")["status"] == "queued"
    assert not redis.exists(run.execution.key)
    assert claim(make_worker(redis, "worker-b")).job_id == "a"


def test_a_live_job_is_left_alone(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    assert Reaper(redis, [run.queue], RETENTION, "reaper").turn() == 0
    assert StartedJobRegistry(queue=run.queue).get_job_ids() == ["a"]


def test_many_reapers_queue_a_job_once(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    lapse(redis, run)
    reapers = [Reaper(redis, [open_queue(redis, make_request())], RETENTION, "reaper") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(Reaper.turn, reapers)) == 1
    assert redis.lrange(run.queue.key, 0, -1) == [b"a"]


def test_a_lapsed_older_execution_is_only_forgotten(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    old = claim(worker)
    Publisher(worker, redis, RETENTION).end(old, HandedBack())
    new = claim(make_worker(redis, "worker-b"))
    lapse(redis, old)
    assert Reaper(redis, [old.queue], RETENTION, "reaper").turn() == 0
    assert StartedJobRegistry(queue=new.queue).get_job_and_execution_ids() == [("a", new.execution.id)]
    assert redis.llen(new.queue.key) == 0


def test_a_finished_job_with_a_lapsed_entry_stays_finished(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    Publisher(worker, redis, RETENTION).end(run, Succeeded(run.result()))
    lapse(redis, run)
    assert Reaper(redis, [run.queue], RETENTION, "reaper").turn() == 0
    assert job_state(redis, "a")["status"] == "succeeded"


def test_an_id_popped_but_never_claimed_returns(redis: Redis) -> None:
    now = 0.0
    enqueue(redis, "a", make_request())
    queue = open_queue(redis, make_request())
    redis.lmove(queue.key, queue.intermediate_queue_key)
    reaper = Reaper(redis, [queue], RETENTION, "reaper", clock=lambda: now)
    reaper.turn()
    assert redis.llen(queue.key) == 0
    now = STUCK_S + 1
    reaper.turn()
    assert redis.lrange(queue.key, 0, -1) == [b"a"]
    assert redis.llen(queue.intermediate_queue_key) == 0
    assert claim(make_worker(redis)).job_id == "a"


def test_a_running_id_left_in_the_intermediate_list_is_only_removed(redis: Redis) -> None:
    now = 0.0
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    redis.rpush(run.queue.intermediate_queue_key, "a")
    reaper = Reaper(redis, [run.queue], RETENTION, "reaper", clock=lambda: now)
    reaper.turn()
    now = STUCK_S + 1
    reaper.turn()
    assert redis.llen(run.queue.key) == redis.llen(run.queue.intermediate_queue_key) == 0


def test_cancelled_jobs_are_forgotten_in_time(redis: Redis) -> None:
    queue = open_queue(redis, make_request())
    registry = CanceledJobRegistry(queue=queue)
    redis.zadd(registry.key, {"old": current_timestamp() - 1, "new": current_timestamp() + 60})
    Reaper(redis, [queue], RETENTION, "reaper").turn()
    assert registry.get_job_ids() == ["new"]


def test_deaths_in_company_never_end_a_job(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    for number in range(1, 6):
        run = claim(make_worker(redis, f"worker-{number}"))
        assert run.isolated == (number > 2)
        lapse(redis, run)
        assert Reaper(redis, [run.queue], RETENTION, "reaper").turn() == 1
        assert job_state(redis, "a")["deaths"] == str(number)


def test_the_third_death_alone_ends_a_job(redis: Redis) -> None:
    enqueue(redis, "a", make_request(prompt="secret"))
    for number in range(3):
        run = claim(make_worker(redis, f"worker-{number}"))
        assert announce_isolated(redis, run)
        lapse(redis, run)
        assert Reaper(redis, [run.queue], RETENTION, "reaper").turn() == (1 if number < 2 else 0)
    state = job_state(redis, "a")
    assert state["status"] == "failed"
    entries = [fields or {} for _, fields in redis.xrange(events_key("a")) or []]
    noted = [fields[TRACE.encode()] for fields in entries if fields[b"type"] == TRACE.encode()]
    assert sum("worker_died" in as_text(each) for each in noted) == 3, "the last death is told, too"
    assert "secret" not in state["error"]
    assert redis.hgetall(UNSERVED_KEY) == {b"txt2img:tiny:interactive:failed": b"1"}
    assert FailedJobRegistry(queue=run.queue).get_job_ids() == ["a"]
    assert StartedJobRegistry(queue=run.queue).count == 0
    assert redis.llen(run.queue.key) == 0


def test_a_job_that_is_late_while_it_waits_ends_and_is_counted_once(redis: Redis) -> None:
    enqueue(redis, "a", make_request(deadline_ms=-1, priority="bulk"))
    reapers = [Reaper(redis, [open_queue(redis, make_request())], RETENTION, name) for name in ("one", "other")]
    for reaper in reapers:
        reaper.end_late()
    assert job_state(redis, "a")["status"] == "failed"
    assert redis.hgetall(UNSERVED_KEY) == {b"txt2img:tiny:bulk:failed": b"1"}


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_clocks_that_jump_end_no_execution_and_keep_none(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    monkeypatch.setattr("rq.registry.current_timestamp", lambda: current_timestamp() + jump_s)
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    with redis.pipeline() as pipe:
        run.execution.heartbeat(run.job.started_job_registry, 15, pipe)
        pipe.execute()
    monkeypatch.undo()
    reaper = Reaper(redis, [run.queue], RETENTION, "reaper")
    assert reaper.turn() == 0
    lapse(redis, run)
    assert reaper.turn() == 1


def test_one_of_many_workers_sweeps_a_queue_and_another_follows_it(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    leader, other = (Reaper(redis, [run.queue], RETENTION, name) for name in ("leader", "other"))
    assert leader.turn() == 0
    lapse(redis, run)
    assert other.turn() == 0, "the queue is the leader's"
    redis.delete(lease_key(run.queue.name))  # as if it had lapsed
    assert other.turn() == 1
    assert leader.turn() == 0


def test_a_lease_lapses_before_jobs_have_waited_30_seconds(redis: Redis) -> None:
    queue = open_queue(redis, make_request())
    Reaper(redis, [queue], RETENTION, "leader").turn()
    for what in (queue.name, DEADLINES):
        assert redis.get(lease_key(what)) == b"leader"
        assert 0 < int(redis.pttl(lease_key(what))) <= 1000 * LEASE_S
    # It dies right after a sweep; the executions that it run lapse meanwhile.
    assert max(HEARTBEAT_TTL_S, LEASE_S + SWEEP_S) + SWEEP_S < 30


def test_a_job_that_is_queued_again_wakes_a_worker(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run = claim(make_worker(redis))
    redis.delete(wake_key(run.queue.name))
    lapse(redis, run)
    Reaper(redis, [run.queue], RETENTION, "reaper").turn()
    assert redis.llen(wake_key(run.queue.name)) == 1


def lose_the_only_worker(redis: Redis, **fields: Any) -> JobRun:
    """A running job of a model whose only worker died a while ago, in a fleet where others serve other models."""
    redis.hset(CARDS_KEY, "tiny", "{}")
    enqueue(redis, "a", make_request(**fields))
    run = claim(make_worker(redis))
    redis.zadd(serving_key("tiny"), {serving_member("worker-a", "cpu"): CLOCK.unix() - 1})
    lapse(redis, run)
    return run


def turn_of_another_models(redis: Redis) -> int:
    return Reaper(redis, [open_queue(redis, make_request("other"))], RETENTION, "elsewhere").turn()


def test_a_job_of_a_model_that_nobody_serves_any_more_waits_again_and_can_be_cancelled(redis: Redis) -> None:
    run = lose_the_only_worker(redis)
    assert turn_of_another_models(redis) == 1
    assert job_state(redis, "a")["status"] == "queued"
    assert redis.lrange(run.queue.key, 0, -1) == [b"a"]
    assert redis.hget(RETRIES_KEY, "worker_died") == b"1"
    assert cancel(redis, RETENTION, "a") == "canceled"
    assert turn_of_another_models(redis) == 0


def test_a_job_of_a_model_that_nobody_serves_any_more_keeps_its_deadline(redis: Redis) -> None:
    run = lose_the_only_worker(redis, deadline_ms=-1)
    turn_of_another_models(redis)
    assert job_state(redis, "a")["status"] == "failed"
    assert FailedJobRegistry(queue=run.queue).get_job_ids() == ["a"]


def test_a_job_that_was_cancelled_after_its_worker_died_ends_when_the_death_is_found(redis: Redis) -> None:
    run = lose_the_only_worker(redis)
    assert cancel(redis, RETENTION, "a") == "running"
    assert turn_of_another_models(redis) == 0
    assert job_state(redis, "a")["status"] == "canceled"
    assert StartedJobRegistry(queue=run.queue).count == redis.scard(CANCELING_KEY) == redis.llen(run.queue.key) == 0
    assert CanceledJobRegistry(queue=run.queue).get_job_ids() == ["a"]


def test_a_queue_that_a_live_worker_serves_is_left_to_it(redis: Redis) -> None:
    lose_the_only_worker(redis)
    redis.zadd(serving_key("tiny"), {serving_member("worker-b", "cpu"): CLOCK.unix() + HEARTBEAT_TTL_S})
    assert turn_of_another_models(redis) == 0
    assert job_state(redis, "a")["status"] == "running"


def test_a_worker_of_the_model_that_comes_at_that_moment_queues_no_job_twice(redis: Redis) -> None:
    run = lose_the_only_worker(redis)
    reapers = [Reaper(redis, [run.queue], RETENTION, f"worker-{number}") for number in range(4)]
    with ThreadPoolExecutor(8) as pool:
        turns = [pool.submit(turn_of_another_models, redis) for _ in range(4)]
        turns += [pool.submit(reaper.turn) for reaper in reapers]
        assert sum(turn.result() for turn in turns) == 1
    assert redis.lrange(run.queue.key, 0, -1) == [b"a"]
    assert claim(make_worker(redis, "worker-c")).job_id == "a"
