"""Limits of control groups, of both versions, as they lie on the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workers.library.memory import cgroup_left, free_memory

MB = 1 << 20


def group(folder: Path, limit: str, used: int, cache: int = 0, *, first: bool = False) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{'total_' if first else ''}inactive_file {cache}\n")


def own(folder: Path, *lines: str) -> Path:
    path = folder / "own"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("path", ["/", "/../../kubepods/pod7"])
def test_a_container_s_own_limit_counts_without_what_was_read_of_files(tmp_path: Path, path: str) -> None:
    group(tmp_path, str(1000 * MB), 700 * MB, 200 * MB)
    assert cgroup_left(tmp_path, own(tmp_path, f"0::{path}")) == 500 * MB


def test_the_tightest_of_all_groups_above_counts(tmp_path: Path) -> None:
    group(tmp_path / "user.slice", str(1000 * MB), 900 * MB)
    group(tmp_path / "user.slice" / "latentd.service", str(400 * MB), 100 * MB)
    where = own(tmp_path, "0::/user.slice/latentd.service")
    assert cgroup_left(tmp_path, where) == 100 * MB
    group(tmp_path / "user.slice", "max", 900 * MB)
    assert cgroup_left(tmp_path, where) == 300 * MB


def test_the_first_version_is_known(tmp_path: Path) -> None:
    group(tmp_path / "memory", str(sys.maxsize), 50 * MB, first=True)
    group(tmp_path / "memory" / "docker" / "a", str(600 * MB), 500 * MB, 100 * MB, first=True)
    assert cgroup_left(tmp_path, own(tmp_path, "4:memory:/docker/a", "1:cpu:/", "0::/")) == 200 * MB


def test_no_limit_is_none(tmp_path: Path) -> None:
    assert cgroup_left(tmp_path, tmp_path / "none") == sys.maxsize
    assert cgroup_left(tmp_path, own(tmp_path, "0::/")) == sys.maxsize


def test_free_memory_is_less_than_there_is() -> None:
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert 0 < free_memory("cpu") < total * 1024
