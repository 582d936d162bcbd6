from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from contract.redis_keys import ENDED_CHANNEL, JOBS_KEY, sweeping_key
from core.settings import Settings
from core.storage import open_store
from jobs.end import Retention
from service.jobs import waiting
from service.jobs.waiting import Waiters
from tests.enqueue import enqueue, event_types, job_state, make_request, result_of
from tests.faults.proxy import Proxy
from tests.gateway import running, settings_for
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig
from tests.redis_server import RedisServer
from tests.unit.workers.parts import RETENTION, claim, make_worker
from workers.objects.sweep import Sweeper, Sweeping
from workers.queue.circuit_breaker import CircuitBreaker, connect
from workers.queue.savepoints import Savepoints


@pytest.fixture
def proxy(redis_server: RedisServer, redis: Redis) -> Iterator[Proxy]:  # noqa: ARG001 (emptied)
    with Proxy(redis_server.socket) as made:
        yield made


@pytest.fixture
def far(proxy: Proxy, settings: Settings) -> Iterator[Rig]:
    """A worker that reaches Redis through the proxy."""
    rig = Rig(connect(proxy.url), settings, "far")
    yield rig
    rig.close()


def until(far: Rig, redis: Redis, job_id: str, step: int) -> None:
    far.until(lambda: int(job_state(redis, job_id)["step"]) >= step, 60)


def check_one_result(redis: Redis, rig: Rig, job_id: str) -> None:
    types = event_types(redis, job_id)
    assert (types.count("started"), types.count("succeeded"), types[-1]) == (1, 1, "succeeded")
    execution = result_of(redis, job_id).execution
    assert [path for path in rig.objects() if "/" in path] == [f"images/{job_id}/{execution}/0.png"]


def test_a_slow_redis_loses_nothing(redis: Redis, proxy: Proxy, far: Rig) -> None:
    proxy.latency_s = 0.05
    enqueue(redis, "a", make_request(steps=20))
    far.until(lambda: job_state(redis, "a")["status"] == "succeeded", 60)
    check_one_result(redis, far, "a")
    assert job_state(redis, "a")["step"] == "20"


@pytest.mark.parametrize("fault", [Proxy.cut, Proxy.close_halfway])
def test_connections_that_break_again_and_again_lose_nothing(
    redis: Redis, proxy: Proxy, far: Rig, fault: Callable[[Proxy], None]
) -> None:
    enqueue(redis, "a", make_request(steps=600))
    for step in (5, 200, 400):
        until(far, redis, "a", step)
        fault(proxy)
    far.until(lambda: job_state(redis, "a")["status"] == "succeeded", 60)
    check_one_result(redis, far, "a")
    assert job_state(redis, "a")["step"] == "600"


def test_an_outage_of_seconds_delays_the_result_and_computing_goes_on(redis: Redis, proxy: Proxy, far: Rig) -> None:
    enqueue(redis, "a", make_request(steps=600))
    until(far, redis, "a", 5)
    proxy.refusing = True
    proxy.cut()
    far.until(lambda: not far.engine.busy, 60)
    assert job_state(redis, "a")["status"] == "running"
    proxy.refusing = False
    far.until(lambda: job_state(redis, "a")["status"] == "succeeded", 60)
    check_one_result(redis, far, "a")


def test_a_worker_cut_off_for_too_long_publishes_nothing(
    redis: Redis, proxy: Proxy, far: Rig, make_rig: MakeRig
) -> None:
    enqueue(redis, "a", make_request(steps=600))
    until(far, redis, "a", 5)
    (lost,) = far.loop.runs()
    proxy.refusing = True
    proxy.cut()
    redis.delete(lost.execution.key)
    near = make_rig("near")
    assert near.reaper.turn() == 1
    near.finish("a")
    far.until(lambda: not far.engine.busy and not far.storing.waiting("tiny"), 60)
    proxy.refusing = False
    far.until(lambda: not far.loop.runs(), 60)
    far.storing.close()
    later = Sweeper(redis, near.store, RETENTION, files_clock=lambda: time.time() + 3600)
    assert later.collect() == 1, "what the overtaken execution stored"
    check_one_result(redis, near, "a")


def test_an_end_whose_answer_is_lost_is_written_once(redis: Redis, proxy: Proxy, far: Rig) -> None:
    enqueue(redis, "a", make_request(steps=3))
    proxy.lose_answer_to = b"succeeded"
    far.until(lambda: job_state(redis, "a")["status"] == "succeeded" and not far.loop.runs(), 60)
    assert proxy.lose_answer_to == b""
    check_one_result(redis, far, "a")


def test_a_gateway_answers_503_while_redis_is_out_of_reach_and_the_retry_gets_the_same_job(
    proxy: Proxy, tmp_path: Path
) -> None:
    headers, body = {"Idempotency-Key": "once"}, {"prompt": "red heart"}
    with running(settings_for(proxy.url, tmp_path)) as client:
        first = client.post("/v1/txt2img", json=body, headers=headers)
        assert first.status_code == 202, first.text
        proxy.refusing = True
        proxy.cut()
        assert client.post("/v1/txt2img", json=body, headers=headers).status_code == 503
        proxy.refusing = False
        again = client.post("/v1/txt2img", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_503_does_not_say_that_nothing_was_done_for_the_job_may_have_been_made(
    redis: Redis, proxy: Proxy, tmp_path: Path
) -> None:
    """The script has run, and its answer is lost however often it is asked."""
    headers, body = {"Idempotency-Key": "once"}, {"prompt": "red heart"}
    with running(settings_for(proxy.url, tmp_path)) as client:
        assert client.post("/v1/txt2img", json=body).status_code == 202
        proxy.lose_answer_to, proxy.lose_every = b"red heart", True
        lost = client.post("/v1/txt2img", json=body, headers=headers)
        assert lost.status_code == 503, lost.text
        assert redis.zcard(JOBS_KEY) == 2, "it was made"
        assert "unknown" in lost.json()["detail"]
        assert "Idempotency-Key" in lost.json()["detail"]
        proxy.lose_every, proxy.lose_answer_to = False, b""
        again = client.post("/v1/txt2img", json=body, headers=headers)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")


def test_a_503_to_a_question_speaks_of_no_change(proxy: Proxy, tmp_path: Path) -> None:
    proxy.refusing = True
    with running(settings_for(proxy.url, tmp_path)) as client:
        assert client.get("/v1/jobs").json()["detail"] == "Redis doesn't answer, or takes no writes"


def test_a_gateway_finds_the_new_master_behind_the_same_address(tmp_path: Path) -> None:
    """The old one lives on as a replica, and connections to it stay open."""
    with (
        RedisServer() as old,
        RedisServer() as new,
        Proxy(old.socket) as proxy,
        running(settings_for(proxy.url, tmp_path)) as client,
        old.connect() as demoted,
    ):
        assert client.post("/v1/txt2img", json={}).status_code == 202
        demoted.replicaof("127.0.0.1", 1)
        proxy.upstream = new.socket
        assert client.post("/v1/txt2img", json={}).status_code == 503
        assert client.post("/v1/txt2img", json={}).status_code == 202


def test_a_worker_finds_the_new_master_behind_the_same_address() -> None:
    with RedisServer() as old, RedisServer() as new, Proxy(old.socket) as proxy:
        now = [0.0]
        with connect(proxy.url) as redis, old.connect() as demoted:
            breaker = CircuitBreaker(lambda: now[0], redis)
            assert breaker.attempt(lambda: redis.set("a", 1))
            demoted.replicaof("127.0.0.1", 1)
            proxy.upstream = new.socket
            assert breaker.attempt(lambda: redis.set("a", 2)) is None
            now[0] += 1.0
            assert breaker.attempt(lambda: redis.set("a", 2))


def test_savepoints_and_sweeps_find_the_new_master_behind_the_same_address(tmp_path: Path) -> None:
    with RedisServer() as old, RedisServer() as new, Proxy(old.socket) as proxy, old.connect() as demoted:
        enqueue(demoted, "a", make_request())
        run = claim(make_worker(demoted))
        store, saving, sweeping = open_store(str(tmp_path)), connect(proxy.url), connect(proxy.url)
        savepoints = Savepoints(saving, store, {run.model: "hash"})
        retention = Retention(1, 1)
        sweep = Sweeping(sweeping, Sweeper(sweeping, store, retention), retention)
        assert saving.info("replication")["role"] == sweeping.info("replication")["role"] == "master"
        demoted.replicaof("127.0.0.1", 1)
        proxy.upstream = new.socket
        savepoints.write(run, b"state")
        sweep.start()
        with new.connect() as promoted:
            until = time.monotonic() + 20
            while not promoted.exists(sweeping_key("expired")):
                assert time.monotonic() < until
                time.sleep(0.02)
        sweep.stop()
        savepoints.close()
        assert saving.info("replication")["role"] == "master"


def test_who_waits_is_told_again_after_a_host_of_redis_is_gone_without_a_word(
    redis: Redis, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subscription's connection stays open, and nothing comes on it."""
    monkeypatch.setattr(waiting, "QUIET_S", 0.3)
    monkeypatch.setattr(waiting, "AGAIN_S", 0.1)

    async def main() -> None:
        far = AsyncRedis.from_url(proxy.url, decode_responses=True)
        waiters = Waiters(far)
        listening = asyncio.create_task(waiters.run())
        await asyncio.sleep(1)
        proxy.hold_answers_to = b"PING"
        async with asyncio.timeout(30):
            while not proxy.held:
                await asyncio.sleep(0.01)
        proxy.hold_answers_to = b"nothing that is sent: what is held stays so"
        with waiters.watch("a") as told:
            async with asyncio.timeout(30):
                while not told.is_set():
                    await asyncio.to_thread(redis.publish, ENDED_CHANNEL, "a")
                    await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.wait([listening])
        await far.aclose()

    asyncio.run(main())
