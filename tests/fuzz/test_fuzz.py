"""The fuzz of `python -m tests.fuzz`, small enough for `make test`."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.making import make
from tests.fuzz.run import fuzz

SEED, REQUESTS = 13, 1500


def test_a_clients_mistake_is_never_a_fault_of_ours(tmp_path: Path) -> None:
    report = fuzz(SEED, range(REQUESTS), tmp_path, lambda _line: None)
    assert report.complaints == [], report.lines()
    assert report.statuses.total() == REQUESTS
    assert {200, 202, 400, 401, 403, 404, 405, 415, 422} <= set(report.statuses)  # it reaches what it means to


def test_a_seed_makes_the_same_requests_again() -> None:
    made = [[make(seed, number).encode() for number in range(50)] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
