"""The Dockerfile's own steps of the gateway image, in folders of this machine: it works, and has no torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.requirements import FILES, canonical, hashed, wanted
from tests.deploy.files import ROOT

STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", (ROOT / "Dockerfile").read_text(), re.S | re.M))

AGAIN = "run: python -m deploy.requirements"
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


def test_it_draws_by_a_server_alone(image: Image) -> None:
    image.run("python", "-c", "import latentd.cli.drawing.remote")
    line, ended = image.run("sh", "-c", "latentd generate cat 2>&1 || echo ended with $?").splitlines()
    assert line.startswith("latentd: workers")
    assert line.endswith("installs what drawing here needs; --server names a service that draws")
    assert ended == "ended with 1"


def test_it_holds_cards_and_tokenizers_alone(image: Image) -> None:
    names = {file.name for file in (image.app / "models" / "weights").rglob("*") if file.is_file()}
    assert names == {"card.json", "tokenizer.json"}


def test_the_worker_image_installs_what_make_does() -> None:
    """It made the environment of these tests, so it isn't installed once more."""
    made = re.search(r"\$\(BIN\)/pip install -q (.+)\n\s+@touch \$@\n", (ROOT / "Makefile").read_text("utf-8"))
    assert made is not None
    assert made[1] == "-c constraints.txt -e '.[worker]'"
    steps = re.sub(r"\s*\\\n\s*", " ", STAGES["install-worker"])
    hashed, torch, package = re.findall(r"/opt/venv/bin/pip install (.+?)(?: &&|\n)", steps)
    assert hashed == "--require-hashes --no-deps -r requirements-worker.txt"
    assert torch == "-c constraints.txt torch"
    assert package == "--no-deps --no-build-isolation -e '.[worker]'"


@pytest.mark.parametrize("image", FILES)
def test_what_images_install_is_current_and_hashed(image: str) -> None:
    """As of what is installed here, where packages that pyproject.toml or constraints.txt names were added."""
    text = FILES[image].read_text("utf-8").replace("\\\n", "")
    found = [
        re.fullmatch(r"([\w-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)", line) for line in text.splitlines()[1:]
    ]
    pins = {match[1]: match[2] for match in found if match is not None}
    assert len(pins) == len(found)
    said = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    exact = {canonical(name): version for name, version in said}
    assert {name for name in pins if exact.get(name, pins[name]) != pins[name]} == set(), AGAIN
    assert {name for name in needed(wanted(image)) if hashed(name)} <= set(pins), AGAIN


def needed(requirements: list[str]) -> set[str]:
    """The names of packages that are installed for these requirements, and of those that they need; builders alone."""
    names: set[str] = set()
    left = [Requirement(text) for text in requirements if not text.startswith(("editables", "hatchling"))]
    while left:
        requirement = left.pop()
        name = canonical(requirement.name)
        if name in names and not requirement.extras:
            continue
        names.add(name)
        for text in distribution(name).requires or () if hashed(name) else ():
            below = Requirement(text)
            extras = [{"extra": extra} for extra in ("", *requirement.extras)]
            if below.marker is None or any(below.marker.evaluate(extra) for extra in extras):
                left.append(below)
    return names
