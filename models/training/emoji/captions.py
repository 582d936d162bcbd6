"""Captions of a picture: what people type when they want it."""

from __future__ import annotations

import numpy as np

from models.training.configs.emoji import Style
from models.training.emoji.names import aliases
from models.training.emoji.packages import SOURCES

ALIAS = 0.4  # of the captions of a thing that has an everyday name
UNSTYLED = 0.6  # of the captions of the style that is meant where none is named
BEFORE = 0.15  # of the captions that name the style put it before the thing
# How the thing is said, and how often; {a} is its article, {tag} one of its keywords.
FORMS = (
    ("{name}, {tag}", 0.12),
    ("{a} {name}", 0.18),
    ("{name} emoji", 0.08),
    ("a picture of {a} {name}", 0.06),
    ("{name}", 0.56),
)


def captions_of(
    name: str, tags: tuple[str, ...], style: Style, unnamed: Style, count: int, rng: np.random.Generator
) -> list[str]:
    """Draw `count` captions; what is drawn twice counts twice. The first is the plain name, for scenes of two."""
    return [name, *(_caption(name, tags, style, unnamed, rng) for _ in range(count - 1))]


def _caption(name: str, tags: tuple[str, ...], style: Style, unnamed: Style, rng: np.random.Generator) -> str:
    thing = _thing(name, tags, rng)
    if style == unnamed and rng.random() < UNSTYLED:
        return thing
    after, before = SOURCES[style].phrases
    return f"{before} {thing}" if rng.random() < BEFORE else f"{thing}, {after}"


def _thing(name: str, tags: tuple[str, ...], rng: np.random.Generator) -> str:
    others = aliases(name)
    if others and rng.random() < ALIAS:
        name = str(rng.choice(others))
    form = str(rng.choice([form for form, _ in FORMS], p=[share for _, share in FORMS]))
    if "{tag}" in form and not tags:
        return name
    article = "an" if name[0] in "aeiou" else "a"
    return form.format(name=name, a=article, tag=str(rng.choice(tags)) if tags else "")
