"""Backlogs as Redis has them: what waits by size, which workers live, and tables that are read once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import redis.asyncio
from redis import Redis

from contract.base import Lane
from contract.measurements import on_device
from contract.redis_keys import serving_key, serving_member, step_times_key
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
    assert backlog.wait_s == pytest.approx(backlog.work_s["cpu"] / 2)
    assert (backlog.jobs, backlog.queued, backlog.fleet.workers) == (4, 4, {"cpu": 2})


def test_bulk_waits_for_interactive_jobs_too(redis: Redis, redis_url: str) -> None:
    publish(redis, MODEL, cells(row_s=0.1))
    enqueue(redis, "first", job(64))
    enqueue(redis, "bulk", job(64, "bulk"))

    async def both(asked: Backlogs) -> list[Backlog]:
        return [await asked.of(MODEL, "interactive"), await asked.of(MODEL, "bulk")]

    interactive, bulk = ask(redis_url, both)
    assert (interactive.wait_s, bulk.wait_s) == pytest.approx((1.0, 2.0))
    assert (interactive.jobs, bulk.jobs) == (1, 1)


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
