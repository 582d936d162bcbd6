"""The environment of the peers: their own packages, beside the torch, diffusers and transformers of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from core.errors import ConfigurationError

PACKAGES = ("litserve>=0.2.19,<0.3",)  # brings FastAPI and uvicorn
SHARED = ("torch", "diffusers", "transformers")  # and what lies beside them


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
        shared = folder / "lib" / version / "site-packages" / "shared.pth"
        shared.write_text("".join(f"{place}\n" for place in _places(SHARED)), "utf-8")
        (folder / "ready").touch()
    return python


def _places(packages: Iterable[str]) -> list[Path]:
    """List the folders that these packages are imported from, each once."""
    origins = [spec.origin for name in packages if (spec := find_spec(name)) is not None]
    return list(dict.fromkeys(Path(origin).parent.parent for origin in origins if origin is not None))


def _run(command: list[str]) -> None:
    # What pip and venv print is for the case that they fail.
    # Packages of PYTHONPATH are none of the new environment, though its pip would take them for installed.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        detail = f"--peers: {' '.join(command[:4])} … failed: {' '.join(last)}"
        raise ConfigurationError(detail, field="peers", value=command[0])
