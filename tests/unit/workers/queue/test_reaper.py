from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp

from contract.events import TRACE
from contract.redis_keys import RETRIES_KEY, UNSERVED_KEY, events_key, lease_key, wake_key
from core.text import as_text
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
