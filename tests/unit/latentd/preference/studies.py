"""Studies of small pictures, and answers, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latentd.preference.answers import Answer
from latentd.preference.pairs import read_pairs
from latentd.preference.study import Study

COLOURS = {"secret-ours": (10, 120, 60), "secret-theirs": (120, 20, 20)}


def write_pictures(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """Two folders, A green PNGs as ours with their prompt, B red JPEGs with a comment; one more in A has no pair."""
    ours, theirs = (folder / name for name in COLOURS)
    for each in (ours, theirs):
        each.mkdir(parents=True)
    for k in range(count + 1):
        text = PngInfo()
        text.add_text("latentd", json.dumps({"request": {"prompt": f"thing {k}"}}))
        text.add_text("parameters", "made by secret-ours")
        Image.new("RGB", (48, 32), COLOURS["secret-ours"]).save(ours / f"name-{k}.png", pnginfo=text)
        if k < count:
            picture = Image.new("RGB", (48, 32), COLOURS["secret-theirs"])
            picture.save(theirs / f"name-{k}.jpg", comment=b"made by secret-theirs")
    return ours, theirs


def make_study(folder: Path, count: int = 6, **fields: Any) -> Study:
    ours, theirs = write_pictures(folder, count)
    values: dict[str, Any] = {"task": 2, "a": str(ours), "b": str(theirs), "pairs": read_pairs(ours, theirs)}
    return Study(**values | fields)


def answer(participant: str, picture: str, preferred: Any, task: int = 2) -> Answer:
    return Answer("2026-01-01T00:00:00+00:00", participant, task, "ours", "theirs", 0, picture, "a", preferred, 1.5)
