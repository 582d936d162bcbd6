"""The examples of README and docs, run in an empty folder in their order, as a new user pastes them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.modules import ROOT
from tests.service import Service
from tests.tiny import write_tiny_inpaint, write_tiny_upscale

SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
WRITTEN = re.compile(r"-o (\w[\w.]*)")
PLACES = {"localhost:8000": "127.0.0.1:PORT", ".venv/bin/latentd": f"{sys.executable} -m latentd"}
CURL = re.compile(r"\bcurl ")


def examples(document: str) -> list[str]:
    """The shell blocks that ask the service or draw without it."""
    blocks: list[str] = SHELL.findall((ROOT / document).read_text("utf-8"))
    return [block for block in blocks if "localhost:8000" in block or "latentd generate" in block]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    write_tiny_inpaint(models_dir / "tiny")
    write_tiny_upscale(models_dir / "tiny-upscale")
    with Service({"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}) as started:
        yield started


def run(script: str, folder: Path, service: Service) -> None:
    """Each command must succeed; curl's, also by the status of its answer."""
    for named, real in PLACES.items():
        script = script.replace(named, real.replace("PORT", str(service.port)))
    lines = ["set -euo pipefail", CURL.sub("curl --fail-with-body -sS ", script)]
    environment = service.env | {"PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", "\n".join(lines)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 0, f"{script}\n{ended.stdout.decode()}\n{ended.stderr.decode()}"


@pytest.mark.parametrize("document", ["README.md", "docs/http.md", "docs/clients.md"])
def test_examples_run_in_an_empty_folder_in_their_order(document: str, service: Service, tmp_path: Path) -> None:
    blocks = examples(document)
    assert "curl" in "".join(blocks)
    for block in blocks:
        run(block, tmp_path, service)
    for name in WRITTEN.findall("".join(blocks)):
        with Image.open(tmp_path / name) as picture:
            picture.load()


def test_every_example_of_a_call_is_run() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {os.path.relpath(path, ROOT) for path in documents if "curl -" in path.read_text("utf-8")}
    assert found == {"README.md", "docs/http.md", "docs/clients.md"}
