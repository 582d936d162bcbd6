from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from contract.redis_keys import processes_key
from tests.enqueue import enqueue, job_state, make_request
from tests.unit.workers.parts import RETENTION, claim, make_worker
from workers.queue import process_identity
from workers.queue.process_identity import PROC, find_orphans, is_dead, machine, own_identity
from workers.queue.reaper import Reaper

SLEEPER = """
import sys
from workers.queue.process_identity import own_identity
print(own_identity(), flush=True)
sys.stdin.read()
"""


def identity_of_the_dead() -> str:
    """The identity of a process that was killed."""
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        identity = process.stdout.readline().decode().strip()
        assert not is_dead(identity)
        process.kill()
        process.poll()
        assert process.wait() == -9
    return identity


def test_a_killed_process_is_dead_and_this_one_is_not() -> None:
    assert is_dead(identity_of_the_dead())
    assert own_identity() != ""
    assert not is_dead(own_identity())


def test_what_another_machine_or_container_holds_is_not_judged() -> None:
    boot, namespace, process = own_identity().split("/")
    assert not is_dead(f"another-boot/{namespace}/{process}")
    assert not is_dead(f"{boot}/pid:[1]/999999:1")
    assert not is_dead("")
    assert not is_dead("rubbish")


def test_a_reused_process_id_is_another_process() -> None:
    assert is_dead(own_identity().rpartition(":")[0] + ":1")


def test_a_process_that_proc_hides_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `hidepid` and systemd's ProtectProc hide those of other users."""
    own, dead = own_identity(), identity_of_the_dead()
    boot, namespace = tmp_path / "sys/kernel/random/boot_id", tmp_path / "self/ns/pid"
    for file in (boot, namespace):
        file.parent.mkdir(parents=True)
    boot.write_text((PROC / "sys/kernel/random/boot_id").read_text())
    namespace.symlink_to((PROC / "self/ns/pid").readlink())
    monkeypatch.setattr(process_identity, "PROC", tmp_path)
    assert own.startswith(machine())
    assert not is_dead(own)
    assert is_dead(dead)


def test_jobs_of_a_dead_neighbour_are_queued_without_waiting_for_the_lapse(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    redis.hset(processes_key(machine()), worker.name, own_identity())
    reaper = Reaper(redis, [run.queue], RETENTION, "reaper")
    assert reaper.turn() == 0
    redis.hset(processes_key(machine()), worker.name, identity_of_the_dead())
    assert reaper.turn() == 1
    assert job_state(redis, "a")["status"] == "queued"
    assert reaper.turn() == 0
    assert not redis.exists(processes_key(machine())), "who left no execution is forgotten"


def test_other_machines_workers_are_no_orphans(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    claim(worker)
    redis.hset(processes_key("another-boot/pid:[1]"), worker.name, identity_of_the_dead())
    assert find_orphans(redis) == set()
