"""Every import that the design forbids fails `make lint`: each is made, in a copy of the packages, and reported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RULES: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
CONTRACTS: list[dict[str, Any]] = RULES["contracts"]
# Which package may import which.
ALLOWED = {
    "core": set[str](),
    "contract": {"core"},
    "jobs": {"contract", "core"},
    "models": set[str](),  # but for core.errors and contract.card
    "service": {"contract", "core", "jobs"},
    "workers": {"contract", "core", "jobs", "models"},
    "latentd": {"contract", "core", "jobs", "latentd_client", "models", "service", "workers"},
    "latentd_client": set[str](),
}
NEVER_BY_OTHERS = {"tests"}
LIBRARIES = {
    "core": {"fastapi", "rq", "torch"},
    "contract": {"fastapi", "redis", "rq", "torch"},
    "jobs": {"fastapi", "torch"},
    "models": {"diffusers", "fastapi", "redis", "rq"},
    "service": {"diffusers", "torch", "transformers"},
    "workers": {"diffusers", "fastapi", "uvicorn"},
    "latentd_client": {"fastapi", "redis", "torch"},
}
FORBIDDEN = [
    (package, other)
    for package, allowed in ALLOWED.items()
    for other in sorted((ALLOWED.keys() | NEVER_BY_OTHERS | LIBRARIES.get(package, set())) - allowed - {package})
]
VIOLATION = "_violation"  # a module that nobody imports, so that no other package is at fault beside its own


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy in which every package imports whatever it must not."""
    folder = tmp_path_factory.mktemp("broken")
    for package in RULES["root_packages"]:
        where = ROOT / "clients" / "python" if package == "latentd_client" else ROOT
        shutil.copytree(where / package, folder / package, ignore=everything_but_python)
    for package in {package for package, _ in violations()}:
        lines = [f"import {other}" for source, other in violations() if source == package]
        (folder / package / f"{VIOLATION}.py").write_text("\n".join(lines), "utf-8")
    done = lint(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def violations() -> set[tuple[str, str]]:
    """Of the design and of the contracts, which may forbid more."""
    stated = (product(contract["source_modules"], contract["forbidden_modules"]) for contract in CONTRACTS)
    within = {("models", "core.settings"), ("models", "contract.job")}
    return {*FORBIDDEN, *within, *(pair for pairs in stated for pair in pairs)}


def everything_but_python(folder: str, names: list[str]) -> Iterable[str]:
    return [name for name in names if not name.endswith(".py") and not (Path(folder) / name).is_dir()]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    env = {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_copy_is_what_was_linted(report: str) -> None:
    assert f"{len(CONTRACTS)} broken" in report
    assert "Contracts: 0 kept" in report


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract["name"])
def test_each_contract_fails_when_broken(contract: dict[str, Any], report: str) -> None:
    assert re.search(rf"^{re.escape(contract['name'])} BROKEN", report, re.MULTILINE)
    for source, other in product(contract["source_modules"], contract["forbidden_modules"]):
        assert f"{source} is not allowed to import {other}:" in report


@pytest.mark.parametrize(("package", "other"), FORBIDDEN)
def test_each_forbidden_arrow_is_reported(package: str, other: str, report: str) -> None:
    assert re.search(rf"{package}\.{VIOLATION} -> {other} \(", report)


@pytest.mark.parametrize("other", ["core.settings", "contract.job"])
def test_models_see_errors_and_cards_alone(other: str, report: str) -> None:
    assert f"models.{VIOLATION} -> {other} (" in report


def test_what_is_allowed_is_kept(tmp_path: Path) -> None:
    """Packages that import all that the design lets them: no contract forbids more."""
    allowed = {package: sorted(others) for package, others in ALLOWED.items()}
    allowed["models"] = ["core.errors", "contract.card"]
    for package in RULES["root_packages"]:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for package, others in allowed.items():
        (tmp_path / package / "module.py").write_text("\n".join(f"import {other}" for other in others), "utf-8")
    (tmp_path / "core" / "errors.py").touch()
    (tmp_path / "contract" / "card.py").touch()
    done = lint(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
