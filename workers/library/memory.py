"""How much memory a process may still take: what the device has left, within the limits of its control groups."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """Where a version of control groups keeps memory: below the mount, and by which names."""

    folder: str
    controllers: str  # of the line of /proc/self/cgroup that names this process's own, maybe beside others
    limit: str
    used: str
    cache: str  # of memory.stat: pages of files that were read once, which go as soon as memory is needed


VERSIONS = (
    _Version("", "", "memory.max", "memory.current", "inactive_file"),
    _Version("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: str) -> int:
    """Count the bytes that this process may still allocate on a device; 0 where the system doesn't say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 0
    facts = dict(line.split(":", 1) for line in lines)
    available = int(facts["MemAvailable"].split()[0]) * 1024
    return max(0, min(available, cgroup_left()))


def cgroup_left(mount: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Count what the limits of this process's control groups leave, of those above its own, too."""
    try:
        lines = own.read_bytes().splitlines()
    except OSError:
        return sys.maxsize
    fields = (os.fsdecode(line).split(":", 2) for line in lines)  # names of groups are any bytes
    named = {name: each[2] for each in fields if len(each) == 3 for name in each[1].split(",")}
    left = (_left(group, each) for each in VERSIONS for group in _groups(mount, each, named))
    return min(left, default=sys.maxsize)


def _groups(mount: Path, version: _Version, named: dict[str, str]) -> Iterator[Path]:
    """Yield the folder of the own group and those above it. In a container, whose mount has its own group as the
    root, the path may be the host's, and isn't there."""
    root = mount / version.folder
    if version.controllers in named:
        below = Path(named[version.controllers].strip("/"))
        yield from (root / each for each in (below, *below.parents))


def _left(group: Path, version: _Version) -> int:
    """Count what one group leaves; one that isn't there, is closed or says something else limits nothing."""
    try:
        limit = (group / version.limit).read_text("ascii").strip()
        used = int((group / version.used).read_text("ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        return sys.maxsize if limit == "max" else int(limit) - used + int(stat.get(version.cache, 0))
    except (OSError, ValueError):
        return sys.maxsize
