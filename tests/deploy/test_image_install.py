"""The Dockerfile's own steps of the gateway image, in folders of this machine: it works, and has no torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import ROOT

STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", (ROOT / "Dockerfile").read_text(), re.S | re.M))

CACHE = Path.home() / ".cache" / "pip"


class Image:
    """Runs COPY and RUN lines of stages with the image's folders moved under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app = root / "app"
        self.app.mkdir()

    def moved(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt/venv|weights)\b", rf"{self.root}/\1", text)

    def build(self, stage: str) -> None:
        for line in STAGES[stage].replace("\\\n", " ").splitlines():
            word, _, rest = line.partition(" ")
            if word == "COPY":
                self._copy(rest.split())
            elif word == "RUN":
                self.run("sh", "-c", self.moved(rest))

    def _copy(self, words: list[str]) -> None:
        stage = words.pop(0) if words[0].startswith("--from=") else None
        *sources, target = words
        for source in sources:
            place = Path(self.moved(source)) if stage else ROOT / source
            into = self.app / self.moved(target)
            if place.is_dir():
                ignore = shutil.ignore_patterns("*.safetensors", "__pycache__")
                shutil.copytree(place, into, dirs_exist_ok=True, ignore=ignore) if place != into else None
            else:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy(place, into)

    def run(self, *command: str) -> str:
        """In the image's folder, with the image's Python first and nothing of this project's environment."""
        path = f"{self.root}/opt/venv/bin:{Path(sys.base_prefix)}/bin:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HTTP", "http", "SSL_"))}
        env = {"PATH": path, "HOME": str(self.root), "PIP_CACHE_DIR": str(CACHE), **kept}
        done = subprocess.run(command, cwd=self.app, env=env, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    image = Image(tmp_path_factory.mktemp("image"))
    for stage in ("install", "install-gateway", "gateway"):
        image.build(stage)
    return image


def test_the_gateway_imports_without_torch(image: Image) -> None:
    code = "import sys, service.app; from importlib.util import find_spec; print(find_spec('torch'), service.__file__)"
    assert image.run("python", "-c", code).split() == ["None", str(image.app / "service" / "__init__.py")]


def test_the_command_works_in_it(image: Image) -> None:
    assert "LATENTD_METRICS_HOST" in image.run("latentd", "settings")
    assert "not installed: this machine can run the gateway" in " ".join(image.run("latentd", "doctor").split())


def test_it_holds_cards_and_tokenizers_alone(image: Image) -> None:
    names = {file.name for file in (image.app / "models" / "weights").rglob("*") if file.is_file()}
    assert names == {"card.json", "tokenizer.json"}


def test_the_worker_image_installs_as_make_does() -> None:
    """Its steps are those that made the environment of these tests, so they aren't run once more."""
    made = re.search(r"\$\(BIN\)/pip install -q (.+)\n\s+@touch \$@\n", (ROOT / "Makefile").read_text("utf-8"))
    assert made is not None
    assert f"RUN /opt/venv/bin/pip install {made[1]}\n" in STAGES["install-worker"]
