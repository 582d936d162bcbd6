"""The backup of docs/operations.md, run as it stands there: only hosts and paths are this machine's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.deploy.files import ROOT
from tests.redis_server import RedisServer

DOCS = (ROOT / "docs" / "operations.md").read_text("utf-8")
PLACES = re.findall(r"^ *(redis\(\) \{ .+ \})$", DOCS, re.MULTILINE)
PASSWORD, PERCENTAGE = "secret", "auto-aof-rewrite-percentage"
# While tar reads Redis's file, each 10 KB that it has written let Redis add to it.
GROWING = "--checkpoint=1 --checkpoint-action=exec='redis-cli -a secret append grown {} > /dev/null 2>&1'".format(
    "x" * 1000
)


def block(first: str) -> str:
    """The shell block of the page that begins with a line."""
    found = re.search(rf"^( *)```sh\n\1{re.escape(first)}\n.*?^\1```$", DOCS, re.MULTILINE | re.DOTALL)
    assert found is not None, first
    return "\n".join(line.removeprefix(found[1]) for line in found[0].splitlines()[1:-1])


def connect(server: RedisServer) -> Redis:
    return Redis(unix_socket_path=str(server.socket), password=PASSWORD, decode_responses=True)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """Holds more than tar writes at once."""
    with RedisServer(aof=True) as started, started.connect() as redis:
        redis.config_set(PERCENTAGE, 100)
        for number in range(200):
            redis.set(f"key-{number}", os.urandom(1000))
        redis.config_set("requirepass", PASSWORD)
        yield started


class Machine:
    """Where docker and kubectl run their commands here, and redis-cli asks the test's server."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self._server = server
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._program(
            "docker",
            'while [ "$1" != redis ]; do shift; done; shift; REDISCLI_AUTH=secret; export REDISCLI_AUTH; exec "$@"',
        )
        self._program("kubectl", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
        self._program("redis-cli", f'exec {shutil.which("redis-cli")} -s {server.socket} "$@"')

    def _program(self, name: str, does: str) -> None:
        file = self._programs / name
        file.write_text(f"#!/bin/sh\n{does}\n")
        file.chmod(0o755)

    def run(self, script: str, data: Path, **environment: str) -> int:
        """The exit status of a script of the page, whose /data is a folder."""
        path = f"{self._programs}:{os.environ['PATH']}"
        env = {"PATH": path, "REDIS_PASSWORD": PASSWORD, **environment}
        command = ["sh", "-ec", script.replace("/data", str(data))]
        return subprocess.run(command, env=env, cwd=self.folder, timeout=60, check=False).returncode

    def percentage(self) -> str:
        with connect(self._server) as redis:
            return str(redis.config_get(PERCENTAGE)[PERCENTAGE])


@pytest.fixture
def machine(tmp_path: Path, server: RedisServer) -> Machine:
    return Machine(tmp_path, server)


@pytest.mark.parametrize("place", PLACES, ids=["compose", "kubernetes"])
def test_a_copy_of_a_file_that_grows_loads_and_rewrites_go_on(
    machine: Machine, server: RedisServer, place: str
) -> None:
    assert machine.run(f"{place}\n{block('(')}\necho went on > after", server.folder, TAR_OPTIONS=GROWING) == 0
    assert (machine.folder / "after").is_file()
    assert machine.percentage() == "100"
    with RedisServer(aof=True) as other:
        other.kill()
        (line,) = {re.sub(" +", " ", line) for line in re.findall(r"sh -ec '.*?' < \S+", DOCS, re.DOTALL)}
        whole, before = machine.folder / "appendonlydir.tar.gz", sorted((other.folder / "appendonlydir").iterdir())
        copy = whole.read_bytes()
        for part in (copy[: len(copy) // 2], copy):
            whole.write_bytes(part)
            assert (machine.run(line, other.folder) == 0) == (part == copy)
            assert sorted((other.folder / "appendonlydir").iterdir()) == before or part == copy
        assert (other.folder / "replaced").is_dir()
        other.start()
        with other.connect() as redis:
            assert redis.exists(*(f"key-{number}" for number in range(200))) == 200
    with connect(server) as redis:
        assert redis.strlen("grown") > 0, "it didn't grow meanwhile"


def test_a_copy_that_fails_says_so_and_rewrites_go_on(machine: Machine, tmp_path: Path) -> None:
    assert machine.run(f"{PLACES[0]}\n{block('(')}\necho went on > after", tmp_path / "none") != 0
    assert not (machine.folder / "after").exists()
    assert machine.percentage() == "100"
