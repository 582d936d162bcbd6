"""What counts as "Redis is away", asked of servers that really refuse."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from core.redis_errors import is_transient
from tests.redis_server import RedisServer
from tests.waits import wait_for

SET_BY_SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1])"
# Settings with which a server refuses writes.
REFUSALS: dict[str, dict[str, str]] = {
    "OOM": {"maxmemory": "1"},
    "READONLY": {"replicaof": "127.0.0.1 1"},
    "NOREPLICAS": {"min-replicas-to-write": "1"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=REFUSALS)
def refusing(request: pytest.FixtureRequest, server: RedisServer) -> Iterator[Redis]:
    """A server that answers reads and refuses writes, in one of several ways."""
    settings = REFUSALS[request.param]
    with server.connect() as redis:
        before: dict[str, Any] = {name: redis.config_get(name)[name] for name in settings}
        set_all(redis, settings)
        yield redis
        set_all(redis, before)


def set_all(redis: Redis, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        if name == "replicaof":
            redis.replicaof(*(value.split() or ("NO", "ONE")))
        else:
            redis.config_set(name, value)


def test_refused_writes_are_transient(refusing: Redis) -> None:
    with pytest.raises(RedisError) as command:
        refusing.set("a", 1)
    with pytest.raises(RedisError) as script:
        refusing.eval(SET_BY_SCRIPT, 1, "a", "1")
    with refusing.pipeline(transaction=False) as pipe:
        pipe.get("a")
        pipe.set("a", "Transaction discarded because of: ERR")
        with pytest.raises(RedisError) as pipeline:
            pipe.execute()
    with refusing.pipeline() as pipe:
        pipe.get("a")
        pipe.set("a", "of pipeline caused error: ERR")
        with pytest.raises(RedisError) as transaction:
            pipe.execute()
    assert all(map(is_transient, (command.value, script.value, pipeline.value, transaction.value)))


@pytest.mark.usefixtures("refusing")
def test_refused_writes_are_transient_to_the_gateway(server: RedisServer) -> None:
    """Its client, the asynchronous one, writes a pipeline's errors in another way."""

    async def write() -> None:
        async with AsyncRedis.from_url(server.url) as redis, redis.pipeline() as pipe:
            pipe.get("a")
            pipe.set("a", 1)
            await pipe.execute()

    with pytest.raises(RedisError) as caught:
        asyncio.run(write())
    assert is_transient(caught.value)


def test_a_transaction_that_exec_itself_discards_is_transient(server: RedisServer) -> None:
    """The server changed its mind between the commands and EXEC."""
    with server.connect() as redis, server.connect() as other:
        connection = redis.connection_pool.get_connection()
        for command in (("MULTI",), ("SET", "a", "1")):
            connection.send_command(*command)
            connection.read_response()
        other.config_set("min-replicas-to-write", 1)
        connection.send_command("EXEC")
        with pytest.raises(ResponseError, match="discarded because of") as caught:
            connection.read_response()
        other.config_set("min-replicas-to-write", 0)
        redis.connection_pool.release(connection)
    assert is_transient(caught.value)


def test_a_read_that_a_change_of_master_ends_is_transient(server: RedisServer) -> None:
    caught: list[RedisError] = []

    def read() -> None:
        with server.connect() as redis:
            try:
                redis.xread({"stream": "$"}, block=10_000)
            except RedisError as error:
                caught.append(error)

    thread = threading.Thread(target=read)
    with server.connect() as redis:
        thread.start()
        wait_for(lambda: redis.info("clients")["blocked_clients"], 10, "a read that waits")
        redis.replicaof("127.0.0.1", "1")
        thread.join(10)
        redis.replicaof("NO", "ONE")
    assert [is_transient(error) for error in caught] == [True]


def test_a_busy_script_is_transient(server: RedisServer) -> None:
    with server.connect() as redis, server.connect() as other:
        redis.config_set("busy-reply-threshold", 1)
        thread = threading.Thread(target=run_forever, args=(redis,))
        thread.start()
        with pytest.raises(RedisError, match="BUSY") as caught:
            ping_until_refused(other)
        other.script_kill()
        thread.join(10)
    assert is_transient(caught.value)


def run_forever(redis: Redis) -> None:
    with suppress(RedisError):  # the test ends it
        redis.eval("while true do end", 0)


def ping_until_refused(redis: Redis) -> None:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        redis.ping()


def test_a_server_that_is_gone_is_transient() -> None:
    with RedisServer() as server, server.connect() as redis:
        server.kill()
        with pytest.raises(RedisConnectionError) as caught:
            redis.ping()
    assert is_transient(caught.value)


def test_mistakes_of_ours_are_not(server: RedisServer) -> None:
    with server.connect() as redis:
        redis.set("a", "MISCONF")
        with pytest.raises(ResponseError) as wrong_type:
            redis.lpush("a", "OOM")
        with pytest.raises(ResponseError) as unknown:
            redis.execute_command("READONLYISH")
        with redis.pipeline() as pipe:
            pipe.lpush("a", "of pipeline caused error: MISCONF")
            with pytest.raises(ResponseError) as told:
                pipe.execute()
        with pytest.raises(ResponseError) as script:
            redis.eval("return redis.error_reply('ERR OOM MISCONF')", 0)
    assert not any(map(is_transient, (wrong_type.value, unknown.value, told.value, script.value)))


def test_a_wrong_password_is_not(server: RedisServer) -> None:
    with server.connect() as redis:
        redis.config_set("requirepass", "right")
        with (
            Redis.from_url(f"{server.url}?password=wrong") as other,
            pytest.raises(RedisConnectionError) as caught,
        ):
            other.ping()
        redis.config_set("requirepass", "")
    assert not is_transient(caught.value)


def test_a_full_disk_is_transient() -> None:
    """MISCONF, for which the client has no class."""
    assert is_transient(ResponseError("MISCONF Errors writing to the AOF file: No space left on device"))
