"""Limits of control groups, of both versions, as they lie on the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.powers import as_an_ordinary_user
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


def test_a_controller_named_beside_others_counts(tmp_path: Path) -> None:
    group(tmp_path / "memory" / "a", str(600 * MB), 500 * MB, first=True)
    assert cgroup_left(tmp_path, own(tmp_path, "3:hugetlb,memory:/a")) == 100 * MB


@pytest.mark.parametrize("line", [b"", b"0", b"hello", b"0::/sl\xff/\xc3\xbc", b"0::/" + b"a" * 300, b"\n0::/"])
def test_strange_names_of_groups_stop_nobody(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "own").write_bytes(line + b"\n0::/\n")
    group(tmp_path, str(300 * MB), 100 * MB)
    assert cgroup_left(tmp_path, tmp_path / "own") == 200 * MB


@pytest.mark.parametrize("name", ["memory.max", "memory.current", "memory.stat"])
@pytest.mark.parametrize("told", ["", "lots", "inactive_file none", "ü"])
def test_a_group_that_says_something_else_limits_nothing(tmp_path: Path, name: str, told: str) -> None:
    group(tmp_path, str(300 * MB), 100 * MB)
    group(tmp_path / "a", str(200 * MB), 100 * MB)
    (tmp_path / "a" / name).write_text(told)
    left = cgroup_left(tmp_path, own(tmp_path, "0::/a"))
    assert left == (100 * MB if (name, told) == ("memory.stat", "") else 200 * MB)


def test_a_closed_group_limits_nothing(tmp_path: Path) -> None:
    group(tmp_path, str(300 * MB), 100 * MB)
    group(tmp_path / "a" / "b", str(200 * MB), 150 * MB)
    (tmp_path / "a").chmod(0)
    with as_an_ordinary_user():
        assert cgroup_left(tmp_path, own(tmp_path, "0::/a/b")) == 200 * MB
    (tmp_path / "a").chmod(0o755)


def test_free_memory_is_less_than_there_is() -> None:
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert 0 < free_memory("cpu") < total * 1024
