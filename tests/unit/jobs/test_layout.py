"""A Redis of another release is refused whole, with a line that says how to drain it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.connection import UnixDomainSocketConnection

from contract.base import CONTRACT_VERSION, CONTRACTS_READ
from contract.redis_keys import JOBS_KEY, LAYOUT_KEY
from core.errors import ConfigurationError
from jobs.layout import LayoutRefused, check_connection, check_layout, too_old
from tests.enqueue import enqueue, make_request

OURS = str(CONTRACT_VERSION).encode()


def ping(url: str) -> bool:
    """Whether a gateway's client can use this Redis."""

    async def run() -> bool:
        async with AsyncRedis.from_url(url, redis_connect_func=check_connection) as redis:
            return bool(await redis.ping())

    return asyncio.run(run())


def test_a_new_redis_is_taken(redis: Redis, redis_url: str) -> None:
    assert ping(redis_url)
    check_layout(redis)
    assert redis.get(LAYOUT_KEY) == OURS
    enqueue(redis, "a", make_request())
    check_layout(redis)
    assert ping(redis_url)


@pytest.mark.parametrize("before", range(12))
def test_the_first_job_of_a_new_redis_refuses_nobody_who_connects_meanwhile(
    redis: Redis, redis_url: str, before: int
) -> None:
    class Overtaken(UnixDomainSocketConnection):
        """A connection before one of whose commands somebody else makes the first job."""

        sent = 0

        async def send_command(self, *args: Any, **kwargs: Any) -> None:
            if self.sent == before:
                enqueue(redis, "a", make_request())
            self.sent += 1
            await super().send_command(*args, **kwargs)

    async def run() -> None:
        async with AsyncRedis.from_url(redis_url, redis_connect_func=check_connection) as client:
            client.connection_pool.connection_class = Overtaken
            while not redis.exists(JOBS_KEY):
                await client.ping()

    asyncio.run(run())


@pytest.mark.parametrize("layout", [None, "1", str(CONTRACT_VERSION + 2), "rubbish"])
def test_jobs_of_another_release_are_refused_and_left_alone(redis: Redis, redis_url: str, layout: str | None) -> None:
    redis.zadd(JOBS_KEY, {"a": 1})
    if layout is not None:
        redis.set(LAYOUT_KEY, layout)
    with pytest.raises(ConfigurationError, match="Redis holds jobs") as refused:
        check_layout(redis)
    assert "\n" not in refused.value.detail
    assert ("until GET /v1/jobs lists none" in refused.value.detail) == (layout != str(CONTRACT_VERSION + 2))
    with pytest.raises(LayoutRefused, match="Redis holds jobs"):
        ping(redis_url)
    assert redis.get(LAYOUT_KEY) == (layout.encode() if layout else None)


@pytest.mark.parametrize("layout", [None, "1", str(CONTRACT_VERSION + 2)])
def test_once_drained_it_is_taken(redis: Redis, redis_url: str, layout: str | None) -> None:
    if layout is not None:
        redis.set(LAYOUT_KEY, layout)
    assert ping(redis_url)
    check_layout(redis)
    assert redis.get(LAYOUT_KEY) == OURS


@pytest.mark.parametrize("layout", sorted({*CONTRACTS_READ, CONTRACT_VERSION + 1}))
def test_the_releases_before_and_behind_are_neighbours(redis: Redis, redis_url: str, layout: int) -> None:
    redis.zadd(JOBS_KEY, {"a": 1})
    redis.set(LAYOUT_KEY, layout)
    check_layout(redis)
    assert ping(redis_url)
    assert int(redis.get(LAYOUT_KEY) or 0) == max(layout, CONTRACT_VERSION), "an older release doesn't take it back"


@pytest.mark.parametrize(
    ("greeting", "told"),
    [
        ({b"version": b"6.2.14"}, "Redis is version 6.2.14: must be Redis 7.0"),
        ({b"version": b"7.0.0"}, None),
        ([b"server", b"valkey", b"version", b"9.1.2"], None),
        ({}, "Redis is version 5 or older"),
    ],
)
def test_servers_before_7_0_are_refused(greeting: object, told: str | None) -> None:
    found = too_old(greeting)
    assert found is None if told is None else told in str(found)


def test_the_server_at_hand_is_new_enough(redis: Redis) -> None:
    assert too_old(redis.execute_command("HELLO")) is None  # type: ignore[no-untyped-call]  # redis-py types it nowhere
