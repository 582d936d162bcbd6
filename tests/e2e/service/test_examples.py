"""The examples of README and docs, run in an empty folder in their order, as a new user pastes them.

Tiny models stand for what the documents name, `sd15` with a LoRA, an embedding and a ControlNet among them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.controls import CASE as CONTROL_CASE
from tests.embeddings import SD1
from tests.gateway import png
from tests.loras import CASE as LORA_CASE
from tests.modules import ROOT
from tests.service import Service
from tests.tiny import write_tiny, write_tiny_upscale

BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
WRITTEN = re.compile(r"-o (\w[\w.-]*\.\w+)|\.save\(\"([\w.-]+)\"\)")
SIDE = 64  # tiny models draw pictures of 512 pixels, too, but not soon
PLACES = {
    "=512": f"={SIDE}",
    "> 245": "> 128",  # what is white: they draw noise around grey
    "localhost:8000": "127.0.0.1:PORT",
    ".venv/bin/latentd": f"{sys.executable} -m latentd",
}
CURL = re.compile(r"\bcurl ")
DOCUMENTS = ("README.md", "docs/http.md", "docs/clients.md", "docs/quickstart.md", "docs/guide.md")


def examples(document: str) -> list[tuple[str, str]]:
    """The blocks, with their languages, that ask the service or draw without it."""
    blocks: list[tuple[str, str]] = BLOCK.findall((ROOT / document).read_text("utf-8"))
    return [
        (language, block)
        for language, block in blocks
        if ("latentd_client" if language == "python" else "localhost:8000") in block or "latentd generate" in block
    ]


def write_models(folder: Path) -> None:
    write_tiny("sd-inpaint", folder / "tiny")
    write_tiny_upscale(folder / "tiny-upscale")
    for kind in ("class", "depth", "layout", "map"):
        write_tiny(kind, folder / f"tiny-{kind}")
    shutil.copytree(LORA_CASE / "sd1_kohya" / "pipeline", folder / "sd15")
    files = {
        "Lora/dogs.safetensors": LORA_CASE / "sd1_kohya" / "lora.safetensors",
        "embeddings/bad-hand.pt": SD1 / "webui-style.pt",
        "ControlNet/canny.safetensors": CONTROL_CASE
        / "two_controlnets"
        / "controlnet_2"
        / "diffusion_pytorch_model.safetensors",
    }
    for name, source in files.items():
        (folder / name).parent.mkdir()
        shutil.copy(source, folder / name)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    models_dir = tmp_path_factory.mktemp("models")
    write_models(models_dir)
    with Service({"LATENTD_MODELS_DIR": str(models_dir), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}) as started:
        yield started


def run(language: str, script: str, folder: Path, service: Service) -> None:
    """Each command must succeed; curl's, also by the status of its answer."""
    for named, real in PLACES.items():
        script = script.replace(named, real.replace("PORT", str(service.port)))
    if language == "sh":
        lines = ["set -euo pipefail", CURL.sub("curl --fail-with-body -sS ", script)]
        command = ["bash", "-c", "\n".join(lines)]
    else:
        command = [sys.executable, "-W", "error", "-c", script]
    environment = service.env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'clients' / 'python'}"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 0, f"{script}\n{ended.stdout.decode()}\n{ended.stderr.decode()}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_run_in_an_empty_folder_in_their_order(document: str, service: Service, tmp_path: Path) -> None:
    blocks = examples(document)
    (tmp_path / "house.png").write_bytes(png((SIDE, SIDE)))  # a picture of the reader's
    assert "curl" in "".join(block for _, block in blocks)
    for language, block in blocks:
        run(language, block, tmp_path, service)
    for names in WRITTEN.findall("".join(block for _, block in blocks)):
        with Image.open(tmp_path / "".join(names)) as picture:
            picture.load()


def test_every_example_of_a_call_is_run() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {os.path.relpath(path, ROOT) for path in documents if "curl -" in path.read_text("utf-8")}
    assert found == set(DOCUMENTS)
