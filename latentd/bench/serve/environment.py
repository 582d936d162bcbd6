"""The environment of the peers: their own packages, beside the torch, diffusers and transformers of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from core.errors import ConfigurationError

PACKAGES = ("litserve>=0.2.19,<0.3",)  # brings FastAPI and uvicorn
SHARED = "shared.pth"


def python_of(folder: Path) -> Path:
    """Return the interpreter of the environment at `folder`, which is made where there is none.

    What it lacks is found in this environment, so that both compute with the same torch.

    Raises:
        ConfigurationError: diffusers isn't installed here, or the peers' packages can't be.
    """
    if find_spec("diffusers") is None:
        raise ConfigurationError("bench serve --http: needs diffusers; pip install 'latentd[dev]'", field="http")
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "-q", *PACKAGES])
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        shared = folder / "lib" / version / "site-packages" / SHARED
        shared.write_text(sysconfig.get_paths()["purelib"] + "\n", "utf-8")
        (folder / "ready").touch()
    return python


def _run(command: list[str]) -> None:
    # What pip and venv print is for the case that they fail.
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        detail = f"--peers: {' '.join(command[:4])} … failed: {' '.join(last)}"
        raise ConfigurationError(detail, field="peers", value=command[0])
