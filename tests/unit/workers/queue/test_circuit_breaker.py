from __future__ import annotations

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.redis_server import RedisServer
from workers.queue.circuit_breaker import CircuitBreaker, connect


def test_while_redis_is_away_tries_grow_rarer_until_it_is_back() -> None:
    now, tries = 0.0, 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise RedisConnectionError("gone")

    breaker = CircuitBreaker(lambda: now)
    for _ in range(1000):
        breaker.attempt(fail)
        now += 0.01
    assert 8 <= tries <= 10  # 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 2 + 2 + 2
    now += 2
    assert breaker.attempt(lambda: "back") == "back"
    assert not breaker.away


def test_mistakes_of_ours_are_raised(redis: Redis) -> None:
    redis.set("text", "a")
    with pytest.raises(ResponseError):
        CircuitBreaker().attempt(lambda: redis.incr("text"))


def test_a_client_finds_a_restarted_server() -> None:
    with RedisServer(aof=True) as server, connect(server.url) as redis:
        breaker = CircuitBreaker()
        assert breaker.attempt(lambda: redis.set("a", 1))
        server.kill()
        assert breaker.attempt(lambda: redis.get("a")) is None
        server.start()
        while breaker.away:
            pass
        assert breaker.attempt(lambda: redis.get("a")) == b"1"


def test_a_redis_that_takes_no_writes_counts_as_away(redis: Redis) -> None:
    breaker = CircuitBreaker()
    redis.config_set("maxmemory", "1")
    try:
        assert breaker.attempt(lambda: redis.set("a", "1")) is None
        assert breaker.away

        def transaction() -> list[object]:
            with redis.pipeline() as pipe:
                pipe.set("a", "1")
                return pipe.execute()

        assert CircuitBreaker().attempt(transaction) is None
    finally:
        redis.config_set("maxmemory", "0")
