"""When a full lane has room again: read five times a second, however many requests are refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from contract.base import LANES, Lane, queue_name
from contract.redis_keys import job_key, queue_key, started_key
from service.admission import backlogs, retry_after
from service.admission.backlogs import Backlogs
from service.admission.retry_after import FullLanes
from tests.enqueue import enqueue, make_request
from tests.times import cells, publish

MODEL = make_request().model


@pytest.mark.parametrize(("kept_s", "readings"), [(60.0, 1), (0.0, 2)])
def test_running_jobs_are_read_once_for_many_refusals(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, kept_s: float, readings: int
) -> None:
    monkeypatch.setattr(retry_after, "KEPT_S", kept_s)
    monkeypatch.setattr(backlogs, "EACH_S", 60.0)  # its own reading isn't counted

    async def refuse() -> list[int]:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as connection:
            known = Backlogs(connection)
            await known.of(MODEL, "bulk")
            redis.config_resetstat()
            lanes = FullLanes(connection, known)
            together = await asyncio.gather(*(lanes.retry_after(MODEL, "bulk") for _ in range(10)))
            return [*together, await lanes.retry_after(MODEL, "bulk")]

    assert asyncio.run(refuse()) == [1] * 11
    assert redis.info("commandstats")["cmdstat_zrange"]["calls"] == readings * len(LANES)


def run_half(redis: Redis, job_id: str, lane: Lane, seconds: float) -> None:
    """A job of two rows that needs as many seconds more as it took so far."""
    request = make_request(steps=10, guidance_scale=5.0, priority=lane)
    enqueue(redis, job_id, request)
    redis.lrem(queue_key(queue_name(MODEL, lane)), 0, job_id)
    redis.zadd(started_key(queue_name(MODEL, lane)), {f"{job_id}:execution": 2e10})
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    redis.hset(job_key(job_id), mapping={"status": "running", "step": 5, "started_at": began.isoformat()})


@pytest.mark.parametrize(("interactive", "bulk_s"), [(1, 90), (8, 90), (12, 1)])
def test_where_bulk_s_room_is_used_up_only_a_bulk_job_makes_some(
    redis: Redis, redis_url: str, interactive: int, bulk_s: int
) -> None:
    publish(redis, MODEL, cells(row_s=0.1))
    for k in range(8 if interactive <= 8 else 4):
        run_half(redis, f"bulk-{k}", "bulk", 90.0)
    for k in range(interactive):
        run_half(redis, f"interactive-{k}", "interactive", 0.5)

    async def refuse() -> list[int]:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as connection:
            lanes = FullLanes(connection, Backlogs(connection))
            return [await lanes.retry_after(MODEL, lane) for lane in LANES]

    at_once, bulk = asyncio.run(refuse())
    assert at_once <= 2
    assert bulk_s <= bulk <= bulk_s + 2
