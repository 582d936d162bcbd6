"""Intervals and tests against published and written-out values."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigurationError
from latentd.preference.tally import Preference, sign_test, tally, wilson
from tests.unit.latentd.preference.studies import answer

FILE = Path("study.csv")


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_newcombe_s(k: int, n: int, low: float, high: float) -> None:
    """Table I of Newcombe 1998, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(
    ("k", "n", "p"),
    [
        (8, 10, 2 * (1 + 10 + 45) / 1024),
        (9, 10, 2 * (1 + 10) / 1024),
        (0, 5, 2 / 32),
        (5, 10, 1.0),
        (1, 1, 1.0),
        (60, 100, 0.05688793),
        (0, 3000, 0.0),
    ],
)
def test_the_sign_test_is_exact_and_two_sided(k: int, n: int, p: float) -> None:
    assert sign_test(k, n) == pytest.approx(p, rel=1e-6)
    assert sign_test(n - k, n) == sign_test(k, n)


def test_participants_are_counted_apart_and_together() -> None:
    answers = [answer("bea", str(k), "a") for k in range(4)] + [answer("al", str(k), "ab"[k % 2]) for k in range(4)]
    al, bea, everybody = tally(answers, FILE)
    assert (al.participant, al.answers, al.preferred_a, al.share_a, al.p) == ("al", 4, 2, 0.5, 1.0)
    assert (bea.participant, bea.answers, bea.preferred_a, bea.p) == ("bea", 4, 4, 0.125)
    assert everybody == Preference(None, 8, 6, 0.75, *wilson(6, 8), 2 * (1 + 8 + 28) / 256)


def test_nothing_and_answers_of_several_studies_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"study\.csv has no answers"):
        tally([], FILE)
    with pytest.raises(ConfigurationError, match=r"study\.csv has answers of 2 studies"):
        tally([answer("al", "0", "a"), answer("al", "0", "a", task=1)], FILE)
