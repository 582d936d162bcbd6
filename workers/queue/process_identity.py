"""Who a process is, so that a neighbour on its machine sees at once that it died, before its heartbeats lapse.

An identity names the kernel's boot, the namespace of process ids, the process and when it started: no other process has
it, in no container and after no restart. Where /proc isn't there, it is unknown and only heartbeats tell.
"""

from __future__ import annotations

import os
from pathlib import Path

from redis import Redis

from contract.redis_keys import processes_key
from core.text import as_text
from jobs.worker import executions_of

PROC = Path("/proc")
DEAD = ("Z", "X")  # states of processes that only wait to be noticed by their parent


def own_identity() -> str:
    """Identify this process; empty where unknown."""
    try:
        return _identity_of(os.getpid())
    except OSError:
        return ""


def machine() -> str:
    """Name where this process can see others: a boot and a namespace of process ids; empty where unknown."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def is_dead(identity: str) -> bool:
    """Tell whether the process lived where this one can look, and is there no more."""
    neighbourhood, _, rest = identity.rpartition("/")
    process = rest.partition(":")[0]
    if not process.isdecimal() or neighbourhood != machine():
        return False
    try:
        return _identity_of(int(process)) != identity
    except OSError:
        return _is_gone(int(process))


def _is_gone(process: int) -> bool:
    """Tell whether there is no such process; kill(2) knows those of other users, whom hidepid keeps out of /proc."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _identity_of(process: int) -> str:
    """Raises OSError where /proc doesn't show the process."""
    neighbourhood = machine()
    # Fields of proc(5)'s stat behind the name, which may hold spaces: state is the third, start time the 22nd.
    fields = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    return "" if not neighbourhood or fields[0] in DEAD else f"{neighbourhood}/{process}:{fields[19]}"


def find_orphans(redis: Redis) -> set[str]:
    """Find executions of workers that died on this machine; workers that left none are forgotten.

    Raises:
        RedisError: if Redis is away.
    """
    identities = redis.hgetall(processes_key(machine())).items()
    dead = [as_text(name) for name, identity in identities if is_dead(as_text(identity))]
    left = executions_of(redis, dead)
    if empty := [name for name, entries in left.items() if not entries]:
        redis.hdel(processes_key(machine()), *empty)
    return set().union(*left.values())
