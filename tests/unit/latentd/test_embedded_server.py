from __future__ import annotations

from redis import Redis

from tests.redis_server import RedisServer


def test_each_test_gets_an_empty_server(redis: Redis, redis_url: str) -> None:
    with Redis.from_url(redis_url) as other:
        assert other.dbsize() == 0
        other.set("a", 1)
    assert redis.get("a") == b"1"


def test_the_append_only_file_survives_a_kill() -> None:
    with RedisServer(aof=True) as server, server.connect() as redis:
        redis.set("kept", 1)
        server.kill()
        server.start()
        assert redis.get("kept") == b"1"
