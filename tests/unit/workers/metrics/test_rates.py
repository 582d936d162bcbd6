from __future__ import annotations

import pytest

from workers.engine.messages import Called
from workers.metrics.rates import RateMeter


def call(rows: int, seconds: float, slots: int) -> Called:
    return Called("tiny", rows, rows, False, seconds, slots, (4, 8, 8))


def test_nothing_is_published_before_it_is_measured() -> None:
    meter = RateMeter()
    meter.imaged("tiny", 1.0)
    assert meter.published() == {}


def test_rows_come_from_the_fullest_calls_and_steps_from_single_images() -> None:
    meter = RateMeter()
    meter.imaged("tiny", 0.5)
    meter.called(call(2, 0.4, 1))
    meter.called(call(16, 1.6, 8))
    rates = meter.published()["tiny"]
    assert [rates.row_s, rates.step_s, rates.image_s] == pytest.approx([0.1, 0.4, 0.5])


def test_without_a_single_image_the_smallest_call_stands_for_it() -> None:
    meter = RateMeter()
    meter.called(call(16, 1.6, 8))
    meter.called(call(4, 0.6, 2))
    assert meter.published()["tiny"].step_s == pytest.approx(0.6)


def test_rates_follow_change() -> None:
    meter = RateMeter()
    for seconds in [1.0] + [2.0] * 40:
        meter.called(call(4, seconds, 2))
    assert meter.published()["tiny"].row_s == pytest.approx(0.5, rel=0.01)
