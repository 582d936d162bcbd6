"""An append-only file of a server that the chosen one can't follow is no damaged one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from latentd.append_only import FOLDER, damage
from latentd.embedded_server import find_server
from tests.redis_server import RedisServer


def written_by(server: Path, folder: Path) -> Path:
    """Copy the append-only file that a server begins into a folder; return its base."""
    with RedisServer(aof=True, binary=server) as running:
        shutil.copytree(running.folder / FOLDER, folder / FOLDER)
    (base,) = (folder / FOLDER).glob("*.base.rdb")
    return base


@pytest.fixture
def system() -> Path:
    found = shutil.which("redis-server")
    assert found is not None
    return Path(found)


def test_a_file_of_valkey_that_redis_does_not_read_is_named_so(system: Path, tmp_path: Path) -> None:
    base = written_by(find_server(), tmp_path)
    told = damage(system, tmp_path)
    assert told is not None
    assert told.startswith("Valkey 9.")
    assert f" wrote {base}, in a format that {system} does not read. Let LATENTD_REDIS_SERVER name" in told
    assert damage(find_server(), tmp_path) is None


def test_so_is_one_of_a_newer_redis(system: Path, tmp_path: Path) -> None:
    base = written_by(system, tmp_path)
    newer = re.sub(rb"^REDIS\d{4}", b"REDIS0099", base.read_bytes())
    base.write_bytes(re.sub(rb"(redis-ver.)\d", rb"\g<1>9", newer))
    for server in (find_server(), system):
        assert str(damage(server, tmp_path)).startswith("Redis 9.")


def test_a_head_of_garbage_is_damage(system: Path, tmp_path: Path) -> None:
    base = written_by(system, tmp_path)
    base.write_bytes(b"GARBAGE10" + base.read_bytes()[9:])
    assert str(damage(find_server(), tmp_path)).startswith(f"{base} is damaged")
