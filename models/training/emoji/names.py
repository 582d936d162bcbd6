"""What an emoji is called: its name, keywords and everyday names, and whether a picture alone names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from models.training.emoji.packages import KEYWORDS, NAMES, fetch, read_json

FILE = Path(__file__).with_name("names.yaml")
TONE = re.compile(r" (?:(?:medium )?(?:light|dark)|medium)(?: skin tone)?$| skin tone")
VARIANT, FLAG, FAMILY = 0.15, 0.4, 0.25  # of a sampling weight: skin tones, flags and keycaps, families


@dataclass(frozen=True, slots=True)
class Names:
    """Names of code points, and the keywords of names."""

    by_code: dict[str, str]
    keywords: dict[str, tuple[str, ...]]

    def of_code(self, code: str) -> str | None:
        """Return the name of a picture whose file is called by code points, `1f688` or `1f468-1f3fc-200d-1f680`."""
        return self.by_code.get(bare(code))

    def tags(self, name: str) -> tuple[str, ...]:
        """Return keywords of a name that it doesn't hold itself."""
        return tuple(tag for tag in self.keywords.get(name, ()) if tag not in name)


def read_names(folder: Path) -> Names:
    """Read the packages of names.

    Raises:
        ConfigurationError: npm can't fetch them.
    """
    listed: list[dict[str, Any]] = read_json(fetch(NAMES, folder), "en/data.json")
    more: dict[str, list[str]] = read_json(fetch(KEYWORDS, folder), "dist/emoji-en-US.json")
    by_code: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for entry in listed:
        name = plain(str(entry["label"]))
        tags = [*entry.get("tags", ()), *(word.replace("_", " ") for word in more.get(str(entry["emoji"]), ()))]
        keywords[name] = tuple(dict.fromkeys(tag.lower() for tag in tags if re.fullmatch(r"[\w -]+", tag)))
        for form in (entry, *entry.get("skins", ())):
            by_code[bare(str(form["hexcode"]).lower())] = plain(str(form["label"]))
    return Names(by_code, keywords)


def plain(label: str) -> str:
    """Return a label in lower-case words: "jack-o-lantern" is "jack o lantern"."""
    words = re.sub(r"[-_]", " ", label.lower())
    return " ".join(re.sub(r"[^\w ]", "", words).split())


def bare(code: str) -> str:
    """Return code points without presentation selectors, which packages set or leave out as they like."""
    return code.lower().replace("-fe0f", "")


def weight_of(name: str) -> float:
    """Return how much a picture of this name counts among others of its style."""
    if TONE.search(name):
        return VARIANT
    if name.startswith(("flag ", "keycap")):
        return FLAG
    return FAMILY if name.startswith(("family", "couple", "kiss ")) else 1.0


def named_by_picture(name: str) -> bool:
    """Tell whether a picture alone names this thing: no sign, no person at work, no variant."""
    lists = _lists()
    if weight_of(name) < 1:
        return False
    if name in lists["kept"]:
        return True
    return not _dropped().search(name) and not name.startswith(tuple(lists["people"]))


def aliases(name: str) -> tuple[str, ...]:
    """Return what people call it, too."""
    return tuple(_lists()["aliases"].get(name, ()))


@cache
def _lists() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text("utf-8")))


@cache
def _dropped() -> re.Pattern[str]:
    words = "|".join(re.escape(w[:-1]) + "$" if w.endswith("$") else re.escape(w) for w in _lists()["dropped"])
    return re.compile(rf"\b(?:{words})(?:\b|$)")
