"""What the images install, with the hashes of its archives: `python -m deploy.requirements` writes both files anew.

torch, and the packages that bring a GPU's libraries with it, are left out: which build of them is installed is for
pip's configuration to say. Archives are looked up by pip, for Linux on both kinds of machine; of most of them nothing
is downloaded but metadata.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILES = {"gateway": ROOT / "deploy" / "requirements-gateway.txt", "worker": ROOT / "deploy" / "requirements-worker.txt"}
PYTHON = "3.11"  # of the images
MACHINES = ("x86_64", "aarch64")
GLIBC = ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014", "_2_12", "2010", "_2_5", "1")
LEFT_OUT = re.compile(r"torch|triton|nvidia-(?!ml-py).*|cuda-.*")
HEAD = "# Written by `python -m deploy.requirements` out of pyproject.toml and constraints.txt.\n"


def wanted(image: str) -> list[str]:
    """Requirements of an image's installation, and of building the package in place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extra = project["project"]["optional-dependencies"]["worker"] if image == "worker" else []
    return [*project["build-system"]["requires"], *project["project"]["dependencies"], *extra]


def canonical(name: str) -> str:
    """A package's name as all its spellings compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashed(text: str) -> bool:
    """Whether a package is installed by its hash."""
    return LEFT_OUT.fullmatch(canonical(text)) is None


def _report(machine: str, requirements: Iterable[str], *options: str) -> Sequence[Mapping[str, Any]]:
    """What pip would install on a machine of that kind."""
    tags = [f"--platform=manylinux{version}_{machine}" for version in GLIBC]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--report=-"]
    with tempfile.TemporaryDirectory() as nowhere:
        place = [f"--target={nowhere}", "--only-binary=:all:", f"--python-version={PYTHON}", *tags]
        done = subprocess.run(
            [*command, *place, *options, *requirements], stdout=subprocess.PIPE, check=True, cwd=ROOT, text=True
        )
    items: Sequence[Mapping[str, Any]] = json.loads(done.stdout)["install"]
    return items


def lines(image: str) -> list[str]:
    """The lines of an image's file, in order of names.

    Raises:
        CalledProcessError: pip finds no archive of what is needed; its own words are on stderr.
    """
    found = [item["metadata"] for item in _report(MACHINES[0], wanted(image), "--constraint=constraints.txt")]
    pins = sorted(f"{canonical(item['name'])}=={item['version']}" for item in found if hashed(item["name"]))
    hashes: dict[str, list[str]] = {pin: [] for pin in pins}
    for machine in MACHINES:
        for item in _report(machine, pins, "--no-deps"):
            pin = f"{canonical(item['metadata']['name'])}=={item['metadata']['version']}"
            hashes[pin].append(item["download_info"]["archive_info"]["hashes"]["sha256"])
    return [_line(pin, sorted(set(each))) for pin, each in hashes.items()]


def _line(pin: str, hashes: Sequence[str]) -> str:
    return " \\\n    ".join([pin, *(f"--hash=sha256:{each}" for each in hashes)])


if __name__ == "__main__":
    for image, file in FILES.items():
        file.write_text(HEAD + "".join(f"{line}\n" for line in lines(image)), "utf-8")
