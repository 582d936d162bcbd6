"""What is asked of whom: every participant sees the pairs in an order and on sides of their own, drawn by the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from latentd.preference.pairs import Pair

Method: TypeAlias = Literal["a", "b"]
Place: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Showing:
    """A pair as one participant sees it."""

    pair: Pair
    left: Method

    def at(self, place: Place) -> Method:
        """Tell whose picture is there."""
        if place == "left":
            return self.left
        return "b" if self.left == "a" else "a"

    def file(self, place: Place) -> Path:
        """Name the picture that is there."""
        return self.pair.a if self.at(place) == "a" else self.pair.b


@dataclass(frozen=True, slots=True)
class Study:
    """Task 1: which picture is real, one of `b`; task 2: whose is better. `limit`: pairs that one participant sees.

    `seconds`: how long a pair is seen before it is answered, as in the paper; 0: until it is.
    """

    task: int
    a: str
    b: str
    pairs: tuple[Pair, ...]
    seed: int = 0
    limit: int | None = None
    seconds: float = 0.0
    question: str | None = None

    def shown_to(self, participant: str) -> list[Showing]:
        """Draw an order, and sides of which each method has half: leaning to one side favours nobody."""
        draw = random.Random(f"{self.seed}/{participant}")
        pairs = draw.sample(self.pairs, len(self.pairs))[: self.limit]
        first = draw.randrange(2)
        lefts: list[Method] = ["a" if (first + k) % 2 else "b" for k in range(len(pairs))]
        draw.shuffle(lefts)
        return [Showing(pair, left) for pair, left in zip(pairs, lefts, strict=True)]

    def ask(self, pair: Pair) -> str:
        """Put the question of a pair."""
        if self.question is not None:
            return self.question
        if self.task == 1:
            return "Which picture is real?"
        if pair.given is not None:
            return "Which is the better version of the picture in the middle?"
        return "Which picture shows this better?" if pair.prompt else "Which picture is better?"
