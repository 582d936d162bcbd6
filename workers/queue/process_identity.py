"""Where a process lives, so that a neighbour on its machine sees at once that it died, before its heartbeats lapse.

A place names the kernel's boot, the namespace of process ids, the process and when it started: no other process has
it, in no container and after no restart. Where /proc isn't there, places are unknown and only heartbeats tell.
"""

from __future__ import annotations

import os
from pathlib import Path

from redis import Redis

from contract.redis_keys import places_key
from core.text import as_text
from jobs.worker import executions_of

PROC = Path("/proc")
DEAD = ("Z", "X")  # states of processes that only wait to be noticed by their parent


def my_place() -> str:
    """This process's place; empty where unknown."""
    return _place_of(os.getpid())


def machine() -> str:
    """Where this process can see others: a boot and a namespace of process ids; empty where unknown."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def is_dead(place: str) -> bool:
    """Whether the process lived where this one can look, and is there no more."""
    neighbourhood, _, rest = place.rpartition("/")
    process = rest.partition(":")[0]
    if not process.isdecimal() or neighbourhood != machine():
        return False
    return _place_of(int(process)) != place


def _place_of(process: int) -> str:
    neighbourhood = machine()
    try:
        # Fields of proc(5)'s stat behind the name, which may hold spaces: state is the third, start time the 22nd.
        fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if not neighbourhood or fields[0] in DEAD else f"{neighbourhood}/{process}:{fields[19]}"


def find_orphans(redis: Redis) -> set[str]:
    """Executions of workers that died on this machine; those that left none are forgotten.

    Raises:
        RedisError: if Redis is away.
    """
    places = {as_text(name): as_text(place) for name, place in redis.hgetall(places_key(machine())).items()}
    dead = [name for name, place in places.items() if is_dead(place)]
    left = executions_of(redis, dead)
    if empty := [name for name, entries in left.items() if not entries]:
        redis.hdel(places_key(machine()), *empty)
    return set().union(*left.values())
