"""The Python client as users have it: its distribution, installed into an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "clients" / "python"


def install(folder: Path) -> Path:
    """Make an environment with the client and what it depends on, and return its Python."""
    venv.create(folder)
    python = folder / "bin" / "python"
    # Our pip works on that environment: a pip of its own takes longer to install than the client.
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-compile", str(CLIENT)]
    subprocess.run(command, check=True, timeout=240, env=alone())
    return python


def alone(**more: str) -> dict[str, str]:
    """The environment of a program that knows nothing of this repository."""
    hidden = ("PYTHONPATH", "LATENTD_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | more


def run(python: Path, program: str, folder: Path, **environment: str) -> str:
    """Run a program with warnings as errors and return what it printed."""
    command = [str(python), "-W", "error", "-c", program]
    done = subprocess.run(
        command, cwd=folder, env=alone(**environment), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    sys.stderr.write(done.stderr)
    return done.stdout
