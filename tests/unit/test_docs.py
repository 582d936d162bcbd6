"""What documents name is there: files, headings, modules; every module has its line in docs/modules.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.modules import FILE, ROOT, list_of_modules

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")
NAMED = re.compile(r"`((?:contract|core|jobs|service|workers|models|latentd|deploy|tests)/[\w./-]*)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
RUN = re.compile(r"python -m ((?:tests|deploy)[\w.]*)")


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for file, anchor in LINK.findall(document.read_text("utf-8")):
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_every_document_and_picture_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        reached.add(document)
        if document.suffix == ".md":
            links = LINK.findall(document.read_text("utf-8"))
            ahead += {(document.parent / file).resolve() for file, _ in links if file} - reached
    assert set((ROOT / "docs").rglob("*.*")) - reached == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    assert {path for path in NAMED.findall(text) if not (ROOT / path).exists()} == set()
    modules = {name.rstrip(".").replace(".", "/") for name in RUN.findall(text)}
    assert {
        name for name in modules if not any((ROOT / f"{name}{end}").exists() for end in (".py", "/__init__.py"))
    } == set()


def test_the_list_of_modules_is_current() -> None:
    assert FILE.read_text("utf-8") == list_of_modules(), "run: python -m tests.modules"


def test_every_redis_key_has_its_row_in_the_architecture() -> None:
    keys = re.findall(r'"(latentd:[a-z:]+[a-z])', (ROOT / "contract" / "redis_keys.py").read_text("utf-8"))
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## Keys in Redis")[1]
    rows = set(re.findall(r"`(latentd:[a-z:]+[a-z])", table))
    assert set(keys) == rows


def test_every_test_that_reliability_names_exists() -> None:
    named = TEST.findall((ROOT / "docs" / "reliability.md").read_text("utf-8"))
    assert len(named) > 80
    missing = {f"{file}::{name}" for file, name in named if f"\ndef {name}(" not in (ROOT / file).read_text("utf-8")}
    assert missing == set()
