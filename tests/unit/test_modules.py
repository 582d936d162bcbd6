"""CONTRIBUTING.md has a line for every module, and its docstring is the one place that this is written in."""

from __future__ import annotations

from tests.modules import BETWEEN, FILE, list_of_modules


def test_the_list_of_modules_is_current() -> None:
    found = BETWEEN.search(FILE.read_text("utf-8"))
    assert found is not None
    assert found[0] == list_of_modules(), "run: python -m tests.modules"
