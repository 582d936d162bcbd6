"""An append-only file of a server that the chosen one can't follow is no damaged one."""

from __future__ import annotations

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
    base.write_bytes(base.read_bytes().replace(b"REDIS0010", b"REDIS0012").replace(b"7.0.15", b"7.4.10"))
    for server in (find_server(), system):
        assert str(damage(server, tmp_path)).startswith(f"Redis 7.4.10 wrote {base}, ")


def test_a_head_of_garbage_is_damage(system: Path, tmp_path: Path) -> None:
    base = written_by(system, tmp_path)
    base.write_bytes(base.read_bytes().replace(b"REDIS0010", b"GARBAGE10"))
    assert str(damage(find_server(), tmp_path)).startswith(f"{base} is damaged")
