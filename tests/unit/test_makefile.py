"""`make` makes its environment, also where a try before broke off."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.modules import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the environment is made from, and the Makefile."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, venv: str) -> subprocess.CompletedProcess[str]:
    """Make the environment by a Python whose `-m venv` does this."""
    python = checkout / "python"
    python.write_text(f"#!/bin/sh\nmkdir -p .venv/bin && touch .venv/bin/python && {venv}\n")
    python.chmod(0o755)
    return subprocess.run(
        ["make", ".venv/.worker", f"PYTHON={python}"], cwd=checkout, capture_output=True, text=True, check=False
    )


def test_an_environment_that_failed_half_way_is_made_again(checkout: Path) -> None:
    assert make(checkout, "echo 'ensurepip is not available' && exit 1").returncode == 2
    done = make(checkout, "cp /bin/true .venv/bin/pip")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv/.worker").exists()
    assert "-m venv" not in make(checkout, "exit 1").stdout, "it is there"
