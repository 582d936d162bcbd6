"""When a full lane has room again: read five times a second, however many requests are refused."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from contract.base import LANES
from service.admission import retry_after
from service.admission.backlogs import Backlogs
from service.admission.retry_after import FullLanes
from tests.enqueue import make_request

MODEL = make_request().model


@pytest.mark.parametrize(("kept_s", "readings"), [(60.0, 1), (0.0, 2)])
def test_running_jobs_are_read_once_for_many_refusals(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, kept_s: float, readings: int
) -> None:
    monkeypatch.setattr(retry_after, "KEPT_S", kept_s)

    async def refuse() -> list[int]:
        async with AsyncRedis.from_url(redis_url, decode_responses=True) as connection:
            lanes = FullLanes(connection, Backlogs(connection))
            together = await asyncio.gather(*(lanes.retry_after(MODEL, "bulk") for _ in range(10)))
            return [*together, await lanes.retry_after(MODEL, "bulk")]

    redis.config_resetstat()
    assert asyncio.run(refuse()) == [1] * 11
    assert redis.info("commandstats")["cmdstat_zrange"]["calls"] == readings * len(LANES)
