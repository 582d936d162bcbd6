from __future__ import annotations

import json
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from contract.base import CONTRACT_VERSION, LANES
from contract.common import Numerics
from contract.redis_keys import JOBS_KEY, events_key, job_key, refused_key, state_key, stored_field
from jobs.claim import LOOK_AGAIN_S, Claimer, Holdings
from tests.enqueue import enqueue, event_types, job_state, make_request, open_queue
from tests.faults.proxy import Proxy
from tests.redis_server import RedisServer
from tests.unit.workers.parts import NUMERICS, RETENTION, TINY, claim, make_claims, make_worker
from workers.claim_policy import REST_S
from workers.queue.circuit_breaker import connect
from workers.queue.reaper import Reaper

LONG_REST_S = 30.0
OTHER = NUMERICS.model_copy(update={"threads": 8})


def fetch(redis: Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=redis, serializer=JSONSerializer)


def test_a_claim_starts_the_job_everywhere_at_once(redis: Redis) -> None:
    worker, request = make_worker(redis), make_request()
    enqueue(redis, "a", request)
    run = claim(worker)
    assert run.request == request
    assert fetch(redis, "a").get_status() == JobStatus.STARTED
    assert redis.ttl("rq:job:a") == -1
    state = job_state(redis, "a")
    assert (state["status"], state["execution"], state["worker"]) == ("running", run.execution.id, "worker-a")
    assert event_types(redis, "a") == ["queued", "started"]
    registry = StartedJobRegistry(queue=run.queue)
    assert registry.get_job_and_execution_ids() == [("a", run.execution.id)]
    assert redis.llen(run.queue.key) == redis.llen(run.queue.intermediate_queue_key) == 0
    assert [one.id for one in worker.get_current_executions()] == [run.execution.id]
    assert worker.get_state() == "busy"


def test_nothing_waits(redis: Redis) -> None:
    assert make_claims(make_worker(redis)).next(TINY) is None


def test_a_duplicate_is_dropped(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    queue = open_queue(redis, make_request())
    queue.push_job_id("a")
    first = claim(worker)
    assert make_claims(worker).next(TINY) is None
    assert job_state(redis, "a")["execution"] == first.execution.id
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_a_job_cancelled_in_the_intermediate_list_is_dropped(redis: Redis) -> None:
    worker = make_worker(redis)
    job = enqueue(redis, "a", make_request())
    redis.rpush(open_queue(redis, make_request()).key, "a")  # what remains when a cancel races with LMOVE
    job.cancel()
    redis.rpush(open_queue(redis, make_request()).key, "a")
    redis.hset(job_key("a"), "status", "canceled")
    assert make_claims(worker).next(TINY) is None
    assert fetch(redis, "a").get_status() == JobStatus.CANCELED


def test_an_ended_job_that_rq_queued_again_is_dropped_and_rq_told(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    redis.hset(job_key("a"), "status", "succeeded")
    assert make_claims(worker).next(TINY) is None
    assert fetch(redis, "a").get_status() == JobStatus.FINISHED


def test_a_purged_job_is_dropped(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    redis.delete(job_key("a"))
    assert make_claims(worker).next(TINY) is None
    assert redis.exists(job_key("a")) == 0


def test_cancelled_before_the_claim_is_claimed_to_be_ended(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    redis.hset(job_key("a"), "cancel", "1")
    assert claim(worker).canceled


def test_another_contract_version_stays_and_does_not_spin(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "new", make_request(), version=99)
    enqueue(redis, "ours", make_request())
    claims = make_claims(worker)
    run = claims.next(TINY)
    assert run is not None
    assert run.job_id == "ours"
    assert claims.next(TINY) is None
    assert redis.lrange(run.queue.key, 0, -1) == [b"new"]
    assert job_state(redis, "new")["status"] == "queued"
    assert fetch(redis, "new").get_status() == JobStatus.QUEUED


def test_what_a_worker_leaves_to_others_keeps_nobody_behind_it_waiting(redis: Redis) -> None:
    claims = make_claims(make_worker(redis))
    for number in range(3):
        enqueue(redis, f"new-{number}", make_request(), version=99)
        redis.zadd(JOBS_KEY, {f"new-{number}": number})
        assert claims.next(TINY) is None
        enqueue(redis, f"ours-{number}", make_request())
        run = claims.next(TINY)
        assert run is not None, "at once"
        assert run.job_id == f"ours-{number}"
    assert claims.next(TINY) is None
    queue = open_queue(redis, make_request())
    assert queue.get_job_ids() == ["new-0", "new-1", "new-2"]
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_what_one_worker_leaves_stays_first_for_another(redis: Redis) -> None:
    request = make_request(loras=[{"id": "style", "scale": 1.0, "hash": "0"}])
    enqueue(redis, "a", request)
    enqueue(redis, "b", make_request())
    first = make_claims(make_worker(redis, "first"))
    run = first.next(TINY)
    assert run is not None
    assert run.job_id == "b"
    enqueue(redis, "c", make_request())
    run = make_claims(make_worker(redis, "second"), holdings=Holdings(loras={"style"})).next(TINY)
    assert run is not None
    assert run.job_id == "a"


def test_a_worker_at_work_walks_no_whole_queue_of_jobs_for_others(redis: Redis) -> None:
    for number in range(9):
        enqueue(redis, f"new-{number}", make_request(), version=99)
    enqueue(redis, "ours", make_request())
    worker = make_worker(redis)
    claims = make_claims(worker)
    for looked in (4, 8):
        assert claims.next(TINY, at_most=4) is None
        assert redis.zcard(refused_key(worker.name)) == looked
    run = claims.next(TINY, at_most=4)
    assert run is not None
    assert run.job_id == "ours"


def test_a_job_is_left_to_a_worker_that_has_its_loras(redis: Redis) -> None:
    loras = [{"id": name, "scale": 1.0, "hash": "0"} for name in ("style", "dogs")]
    enqueue(redis, "a", make_request(loras=loras))
    worker = make_worker(redis)
    assert make_claims(worker, holdings=Holdings(loras={"style"})).next(TINY) is None
    assert job_state(redis, "a")["status"] == "queued"
    run = make_claims(make_worker(redis, "other"), holdings=Holdings(loras={"style", "dogs"})).next(TINY)
    assert run is not None
    assert [lora.id for lora in run.request.applied_loras] == ["style", "dogs"]


def test_a_job_is_left_to_a_worker_that_has_its_controlnets(redis: Redis) -> None:
    image = {"path": "x", "sha256": "0", "bytes": 1, "width": 64, "height": 64}
    enqueue(redis, "a", make_request(controls=[{"id": "canny", "hash": "0", "image": image}]))
    worker = make_worker(redis)
    assert make_claims(worker, holdings=Holdings(loras={"canny"})).next(TINY) is None
    run = make_claims(make_worker(redis, "other"), holdings=Holdings(controlnets={"canny"})).next(TINY)
    assert run is not None
    assert [control.id for control in run.request.applied_controls] == ["canny"]


def test_a_job_is_left_to_a_worker_that_has_its_embeddings(redis: Redis) -> None:
    enqueue(redis, "a", make_request(embeddings=[{"name": "style", "hash": "0"}]))
    worker = make_worker(redis)
    assert make_claims(worker, holdings=Holdings(loras={"style"})).next(TINY) is None
    run = make_claims(make_worker(redis, "other"), holdings=Holdings(embeddings={"style"})).next(TINY)
    assert run is not None
    assert [each.name for each in run.request.applied_embeddings] == ["style"]


def test_what_was_left_to_others_is_looked_at_again(redis: Redis) -> None:
    worker = make_worker(redis)
    claims, refused = make_claims(worker), refused_key(worker.name)
    enqueue(redis, "a", make_request(determinism="strict"))
    redis.hset(job_key("a"), "numerics", OTHER.to_json())
    redis.hset(state_key("a"), "data", "kept")
    assert claims.next(TINY) is None
    redis.delete(state_key("a"))  # the savepoint expires
    assert claims.next(TINY) is None
    redis.zincrby(refused, -LOOK_AGAIN_S, "a")
    assert claims.next(TINY) is not None
    assert not redis.exists(refused), "who runs a job hasn't left it to others"


def test_an_answer_that_was_lost_leaves_one_entry(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request(), version=99)
    queue, claimer = open_queue(redis, make_request()), Claimer(worker, redis)
    assert claimer.pop([queue.key]) == (queue.key, "a")
    for _ in range(2):
        assert claimer.start(queue, "a", NUMERICS, Holdings()) is None
    assert queue.get_job_ids() == ["a"]


@pytest.mark.parametrize(
    "arguments", [[], ["2"], [1, "a"], [CONTRACT_VERSION, "other"], [CONTRACT_VERSION, "a", {}], [CONTRACT_VERSION, 3]]
)
def test_unreadable_arguments_go_back(redis: Redis, arguments: list[object]) -> None:
    worker = make_worker(redis)
    job = enqueue(redis, "a", make_request())
    job._args = arguments
    job._data = json.dumps(["workers.worker.run", None, arguments, {}]).encode()
    job.save()
    assert make_claims(worker).next(TINY) is None
    assert redis.lrange(open_queue(redis, make_request()).key, 0, -1) == [b"a"]


@pytest.mark.parametrize("record", ["", "{}", '{"id": "a", "request": {"kind": "txt2hologram"}}'])
def test_an_unreadable_record_goes_back(redis: Redis, record: str) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    redis.hset(job_key("a"), "record", record)
    assert make_claims(worker).next(TINY) is None
    assert redis.lrange(open_queue(redis, make_request()).key, 0, -1) == [b"a"]
    assert job_state(redis, "a")["status"] == "queued"


def test_strict_numerics_are_fixed_at_the_first_start(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request(determinism="strict"))
    assert claim(worker).request.numerics == NUMERICS
    assert Numerics.model_validate_json(job_state(redis, "a")["numerics"]) == NUMERICS


@pytest.mark.parametrize(("key", "field"), [(state_key("a"), "data"), (job_key("a"), stored_field(1))])
def test_a_strict_job_of_which_something_is_kept_is_left_to_equal_numerics(redis: Redis, key: str, field: str) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request(determinism="strict", num_images=2))
    redis.hset(job_key("a"), "numerics", OTHER.to_json())
    redis.hset(key, field, "kept")
    assert make_claims(worker).next(TINY) is None
    assert make_claims(make_worker(redis, "other"), numerics=OTHER).next(TINY) is not None


def test_a_strict_job_that_left_nothing_begins_anew_with_other_numerics(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request(determinism="strict"))
    redis.hset(job_key("a"), "numerics", OTHER.to_json())
    assert claim(worker).request.numerics == NUMERICS
    assert Numerics.model_validate_json(job_state(redis, "a")["numerics"]) == NUMERICS


def test_interactive_goes_first_and_bulk_is_not_starved(redis: Redis) -> None:
    worker = make_worker(redis)
    for index in range(8):
        enqueue(redis, f"b{index}", make_request(priority="bulk"))
        enqueue(redis, f"i{index}", make_request())
    claims = make_claims(worker)
    taken = [run.job_id for _ in range(10) if (run := claims.next(TINY)) is not None]
    assert taken == ["i0", "i1", "i2", "i3", "b0", "i4", "i5", "i6", "i7", "b1"]


def test_models_take_turns_and_one_without_room_waits(redis: Redis) -> None:
    worker = make_worker(redis)
    for index in range(3):
        enqueue(redis, f"x{index}", make_request(model="x"))
        enqueue(redis, f"y{index}", make_request(model="y"))
    claims = make_claims(worker, models=("x", "y"))
    taken = [
        run.job_id for _ in range(4) if (run := claims.next([("x", "interactive"), ("y", "interactive")])) is not None
    ]
    assert taken == ["x0", "y0", "x1", "y1"]
    rest = [run.job_id for _ in range(2) if (run := claims.next([("y", "interactive")])) is not None]
    assert rest == ["y2"]


def test_a_resting_worker_looks_by_itself_in_half_a_second(redis: Redis) -> None:
    began = time.monotonic()
    make_claims(make_worker(redis)).rest()
    assert REST_S * 0.9 < time.monotonic() - began < LONG_REST_S, "nobody called"


def test_a_resting_worker_is_woken_by_each_queue(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.queue.claims.REST_S", LONG_REST_S)
    claims = make_claims(make_worker(redis))
    for lane in LANES:
        with ThreadPoolExecutor(1) as pool:
            resting = pool.submit(claims.rest)
            time.sleep(0.05)
            enqueue(redis, lane, make_request(priority=lane))
            began = time.monotonic()
            resting.result()
            assert time.monotonic() - began < LONG_REST_S / 2, "it was woken: by itself it would rest longer"
        assert claims.next(TINY) is not None


def test_one_job_wakes_one_of_many_resting_workers(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.queue.claims.REST_S", LONG_REST_S)
    claims = [make_claims(make_worker(redis, f"worker-{number}")) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        resting = [pool.submit(one.rest) for one in claims]
        time.sleep(0.05)
        enqueue(redis, "a", make_request())
        woken, others = wait(resting, timeout=LONG_REST_S / 2, return_when=FIRST_COMPLETED)
        assert (len(woken), len(others)) == (1, 3)
        for job_id in ("b", "c", "d"):
            enqueue(redis, job_id, make_request())


def test_suspended_workers_claim_nothing(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    redis.set("rq:suspended", 1)
    assert make_claims(worker).next(TINY) is None


def test_a_claim_whose_answer_was_lost_is_this_worker_s(redis: Redis, redis_server: RedisServer) -> None:
    with Proxy(redis_server.socket) as proxy:
        worker = make_worker(connect(proxy.url))
        enqueue(redis, "a", make_request())
        proxy.lose_answer_to = b"EXEC"
        run = claim(worker)
        assert proxy.lose_answer_to == b""
    assert (job_state(redis, "a")["execution"], run.resumed) == (run.execution.id, False)
    assert list(worker.executions) == [run.execution.id]
    assert event_types(redis, "a") == ["queued", "started"]


def test_rq_s_clean_up_leaves_lapsed_executions_to_us(redis: Redis) -> None:
    """It doesn't count that a worker died with them."""
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    for _ in range(2):
        redis.delete(run.execution.key)
        StartedJobRegistry(queue=run.queue).cleanup(time.time() + 3600)
        assert fetch(redis, "a").get_status() == JobStatus.STARTED
        worker.beat(redis, [run], lambda _: None)
    redis.delete(run.execution.key)
    assert Reaper(redis, [run.queue], RETENTION, "b").turn() == 1
    assert job_state(redis, "a")["deaths"] == "1"


def test_resuming_keeps_the_first_start(redis: Redis) -> None:
    worker = make_worker(redis)
    job = enqueue(redis, "a", make_request())
    first = claim(worker)
    job.set_status(JobStatus.QUEUED)
    open_queue(redis, make_request()).push_job_id("a")
    second = claim(worker)
    assert second.execution.id != first.execution.id
    assert (second.started_at, second.resumed) == (first.started_at, True)
    assert event_types(redis, "a") == ["queued", "started"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["push", "take", "cancel"])), max_size=20))
def test_whatever_is_pushed_a_job_has_one_live_execution(redis: Redis, moves: list[tuple[str, str]]) -> None:
    redis.flushall()
    worker, request = make_worker(redis), make_request()
    queue: Queue = open_queue(redis, request)
    jobs = {job_id: enqueue(redis, job_id, request) for job_id in "abc"}
    claims, taken = make_claims(worker), []
    for job_id, move in moves:
        if move == "push":
            queue.push_job_id(job_id)
        elif move == "take":
            taken += [run.job_id for _ in range(1) if (run := claims.next(TINY)) is not None]
        elif jobs[job_id].get_status() == JobStatus.QUEUED:
            jobs[job_id].cancel()
            redis.hset(job_key(job_id), "status", "canceled")
    assert len(taken) == len(set(taken))
    assert sorted(taken) == sorted(job_id for job_id, _ in StartedJobRegistry(queue=queue).get_job_and_execution_ids())
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_the_execution_is_readable_by_rq(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    assert Execution.fetch(run.execution.id, "a", connection=redis).worker_name == "worker-a"
    assert redis.xlen(events_key("a")) == 2
