"""Backlogs as Redis has them: what waits by size, which workers live, and tables that are read once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio
from redis import Redis

from contract.base import Lane, queue_name
from contract.measurements import on_device
from contract.redis_keys import queue_key, serving_key, serving_member, started_key, step_times_key
from contract.request import JobRequest
from service.admission import backlogs
from service.admission.backlogs import Backlogs
from service.admission.estimates import Backlog
from tests.enqueue import enqueue, make_request
from tests.times import cells, publish

MODEL = make_request().model


def ask(url: str, work: Callable[[Backlogs], Awaitable[list[Backlog]]]) -> list[Backlog]:
    async def run() -> list[Backlog]:
        async with redis.asyncio.Redis.from_url(url, decode_responses=True) as connection:
            return await work(Backlogs(connection))

    return asyncio.run(run())


def job(side: int, lane: Lane = "interactive") -> JobRequest:
    """Ten rows."""
    return make_request(width=side, height=side, steps=10, guidance_scale=1.0, priority=lane)


async def once(asked: Backlogs) -> list[Backlog]:
    return [await asked.of(MODEL, "interactive")]


async def both(asked: Backlogs) -> list[Backlog]:
    return [await asked.of(MODEL, "interactive"), await asked.of(MODEL, "bulk")]


def test_a_lane_of_large_pictures_waits_by_their_own_times(redis: Redis, redis_url: str) -> None:
    publish(redis, MODEL, cells(row_s=0.01) | cells(row_s=4.0, side=128, decode=6.0))
    redis.zadd(serving_key(MODEL), {serving_member(f"worker-{k}", "cpu"): 2e10 for k in range(2)})
    redis.zadd(serving_key(MODEL), {serving_member("dead", "cpu"): 1})
    for k in range(3):
        enqueue(redis, f"large-{k}", job(1024))
    enqueue(redis, "small", job(64))
    (backlog,) = ask(redis_url, once)
    decoded_small = 6.0 / 256
    assert backlog.work_s["cpu"] == pytest.approx(3 * (10 * 4.0 + 6.0) + 10 * 0.01 + decoded_small)
    assert backlog.wait_s(job(64)) == pytest.approx(backlog.work_s["cpu"] / 2)
    assert (backlog.jobs, backlog.queued, backlog.fleet.workers) == (4, 4, {"cpu": 2})


def test_bulk_waits_for_interactive_jobs_too(redis: Redis, redis_url: str) -> None:
    publish(redis, MODEL, cells(row_s=0.1))
    enqueue(redis, "first", job(64))
    enqueue(redis, "bulk", job(64, "bulk"))

    interactive, bulk = ask(redis_url, both)
    assert (interactive.wait_s(job(64)), bulk.wait_s(job(64))) == pytest.approx((1.0, 2.0))
    assert (interactive.jobs, bulk.jobs) == (1, 1)


def claim(redis: Redis, job_id: str, lane: Lane = "interactive") -> None:
    """As a worker does; twice for one whose first worker died."""
    redis.lrem(queue_key(queue_name(MODEL, lane)), 0, job_id)
    redis.zadd(started_key(queue_name(MODEL, lane)), {f"{job_id}:{execution}": 2e10 for execution in "ab"})


def test_running_jobs_are_told_from_those_that_wait(redis: Redis, redis_url: str) -> None:
    publish(redis, MODEL, cells(row_s=0.1))
    jobs: list[tuple[str, int, Lane]] = [("long", 999, "interactive"), ("short", 2, "interactive"), ("b", 999, "bulk")]
    for job_id, steps, lane in jobs:
        enqueue(redis, job_id, job(64, lane).model_copy(update={"steps": steps}))
        claim(redis, job_id, lane)
    redis.zadd(started_key(queue_name(MODEL, "interactive")), {"ended:a": 2e10})

    interactive, bulk = ask(redis_url, both)
    enqueue(redis, "waits", job(64).model_copy(update={"steps": 100}))
    (behind,) = ask(redis_url, once)
    assert (interactive.jobs, interactive.queued, bulk.jobs, bulk.queued) == (2, 0, 1, 0)
    assert interactive.wait_s(job(64)) == pytest.approx(0.2 + 1.0)
    assert bulk.wait_s(job(64)) == pytest.approx(0.2 + 2 * 1.0), "as much as it computes, beside each long one"
    assert behind.wait_s(job(64)) == pytest.approx(0.2 + 1.0 + 10.0), "what waits goes first as a whole"
    assert (behind.jobs, behind.queued) == (3, 1)


def test_a_bulk_job_waits_for_four_interactive_ones(redis: Redis, redis_url: str) -> None:
    publish(redis, MODEL, cells(row_s=0.1))
    for k in range(10):
        enqueue(redis, f"first-{k}", job(64))
    _, backlog = ask(redis_url, both)
    assert backlog.wait_s(job(64, "bulk")) == pytest.approx(4 * 1.0)
    assert (backlog.jobs, backlog.first_jobs) == (0, 10)


def test_tables_are_read_again_only_after_they_were_written(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlogs, "EACH_S", 0.0)
    monkeypatch.setattr(backlogs, "EACH_CELL_S", 0.0)
    publish(redis, MODEL, cells(row_s=0.1))

    async def thrice(asked: Backlogs) -> list[Backlog]:
        first = await asked.of(MODEL, "interactive")
        redis.hset(step_times_key(MODEL), on_device("store", "cpu"), 9.0)  # as no worker does: without its moment
        second = await asked.of(MODEL, "interactive")
        publish(redis, MODEL, cells(row_s=0.2))
        return [first, second, await asked.of(MODEL, "interactive")]

    first, second, third = ask(redis_url, thrice)
    assert second.fleet.tables is first.fleet.tables
    assert third.fleet.tables["cpu"].store_s == 9.0
