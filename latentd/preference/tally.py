"""Preferences counted: shares with Wilson's interval (Wilson 1927), and an exact two-sided sign test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist

from core.errors import ConfigurationError
from latentd.preference.answers import Answer

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Preference:
    """Of `answers`, how many preferred A, between which shares that lies, and how likely chance alone is as far off."""

    participant: str | None  # None: all together
    answers: int
    preferred_a: int
    share_a: float
    low: float
    high: float
    p: float


def tally(answers: list[Answer], file: Path) -> list[Preference]:
    """Count each participant's answers of a file, by name, then all.

    Raises:
        ConfigurationError: there are none, or they are of more than one study.
    """
    studies = {answer.study for answer in answers}
    if len(studies) != 1:
        told = "has no answers" if not studies else f"has answers of {len(studies)} studies; report each apart"
        raise ConfigurationError(f"{file} {told}")
    people = sorted({answer.participant for answer in answers})
    each = [_counted(name, (answer for answer in answers if answer.participant == name)) for name in people]
    return [*each, _counted(None, answers)]


def _counted(participant: str | None, answers: Iterable[Answer]) -> Preference:
    chosen = [answer.preferred == "a" for answer in answers]
    k, n = sum(chosen), len(chosen)
    return Preference(participant, n, k, k / n, *wilson(k, n), sign_test(k, n))


def wilson(k: int, n: int) -> tuple[float, float]:
    """Bound the share of which k of n is a sample: (k/n + z²/2n ± z·√(k/n·(1 − k/n)/n + z²/4n²)) / (1 + z²/n)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, spread = k / n, z * z / n
    middle = share + spread / 2
    reach = z * sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))


def sign_test(k: int, n: int) -> float:
    """Return how likely n fair coins are at least as far from n/2 as k heads: twice the smaller tail, at most 1."""
    tail, ways = 0, 1
    for heads in range(min(k, n - k) + 1):
        tail, ways = tail + ways, ways * (n - heads) // (heads + 1)
    return min(1.0, tail / (1 << (n - 1)))
