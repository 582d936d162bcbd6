"""Writes docs/modules.md, a line each module out of their docstrings: `python -m tests.modules`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "modules.md"
PACKAGES = (
    "contract",
    "core",
    "jobs",
    "service",
    "workers",
    "models",
    "latentd",
    "clients/python/latentd_client",
    "deploy",
)
HEAD = """# Every module

The first line of each docstring; after a change: `python -m tests.modules`.

"""


def list_of_modules() -> str:
    """Markdown: a heading a package, below it a line a module, in the order of CONTRIBUTING's layout."""
    return HEAD + "".join(_package(ROOT / package) for package in PACKAGES).rstrip("\n") + "\n"


def _package(folder: Path) -> str:
    modules = [path for path in sorted(folder.glob("*.py")) if path.stem not in ("__init__", "__main__")]
    lines = "".join(f"- `{path.stem}`: {_about(path)}\n" for path in modules)
    below = [path.parent for path in sorted(folder.glob("*/__init__.py"))]
    heading = f"**`{folder.relative_to(ROOT)}/`** {_about(folder / '__init__.py')}\n\n"
    return heading + (lines + "\n" if lines else "") + "".join(map(_package, below))


def _about(path: Path) -> str:
    """The first line of a module's docstring.

    Raises:
        ValueError: it has none.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)} has no docstring")
    return docstring.splitlines()[0]


if __name__ == "__main__":
    FILE.write_text(list_of_modules(), "utf-8")
