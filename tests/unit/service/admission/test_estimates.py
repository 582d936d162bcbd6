"""Waits and seconds of fleets of several kinds of devices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contract.measurements import step_times
from core.errors import InvalidRequest, QueueFull
from service.admission.estimates import (
    Backlog,
    Fleet,
    Running,
    estimate,
    gpu_seconds,
    idle_seconds,
    least_seconds,
    queued_eta,
    running_eta,
)
from service.submit import check_deadline
from tests.engines import make_request
from tests.times import cells

REQUEST = make_request(steps=10, guidance_scale=1.0)  # 10 rows of 64×64
FAST, SLOW = (step_times("paint", 8, cells(row_s=row_s)) for row_s in (0.01, 0.1))
TABLES = {"H100": FAST, "cpu": SLOW}


def test_the_kinds_that_serve_decide_what_a_job_takes() -> None:
    assert gpu_seconds(REQUEST, Fleet(TABLES, {"cpu": 1})) == pytest.approx(1.0)
    assert gpu_seconds(REQUEST, Fleet(TABLES, {"H100": 2})) == pytest.approx(0.1)
    assert idle_seconds(REQUEST, Fleet(TABLES, {"cpu": 1, "H100": 2})) == pytest.approx((1.0 + 2 * 0.1) / 3)


def test_a_kind_that_was_not_measured_counts_as_the_fastest_and_so_does_nobody() -> None:
    for workers in ({"new": 1}, {"": 1}, {}):
        assert gpu_seconds(REQUEST, Fleet(TABLES, workers)) == pytest.approx(0.1)
    assert gpu_seconds(REQUEST, Fleet({}, {"cpu": 1})) is None
    assert Backlog(Fleet({}, {"cpu": 1})).wait_s(REQUEST) is None


def test_workers_share_what_waits_each_at_its_speed() -> None:
    work_s = {"H100": 1.0, "cpu": 10.0}
    assert Backlog(Fleet(TABLES, {"cpu": 2}), work_s).wait_s(REQUEST) == pytest.approx(5.0)
    assert Backlog(Fleet(TABLES, {"cpu": 10, "H100": 1}), work_s).wait_s(REQUEST) == pytest.approx(0.5)
    assert Backlog(Fleet(TABLES, {"cpu": 1}), {"H100": 0.0, "cpu": 0.0}).wait_s(REQUEST) == 0.0


def test_the_fastest_kind_decides_what_is_impossible_and_those_that_serve_what_is_late() -> None:
    backlog = Backlog(Fleet(TABLES, {"cpu": 1}), {"H100": 0.0, "cpu": 0.0})
    assert least_seconds(REQUEST, backlog.fleet) == pytest.approx(0.1)
    check_deadline(REQUEST.model_copy(update={"deadline_ms": 1001}), backlog)
    with pytest.raises(QueueFull, match=r"the job 1\.0 s"):
        check_deadline(REQUEST.model_copy(update={"deadline_ms": 500}), backlog)
    with pytest.raises(InvalidRequest, match=r"about 0\.1 s with nothing before it"):
        check_deadline(REQUEST.model_copy(update={"deadline_ms": 50}), backlog)


def test_large_pictures_are_told_from_small_ones() -> None:
    fleet, idle = Fleet(TABLES, {"cpu": 1}), {"H100": 0.0, "cpu": 0.0}
    seconds = [
        estimate(REQUEST.model_copy(update={"width": side, "height": side}), Backlog(fleet, idle)).gpu_s
        for side in (64, 128, 1024)
    ]
    assert seconds == pytest.approx([1.0, 4.0, 256.0])


def test_a_job_behind_others_adds_its_own_work() -> None:
    backlog = Backlog(Fleet(TABLES, {"cpu": 1}), {"H100": 1.0, "cpu": 10.0}, jobs=1, queued=0).behind(REQUEST)
    assert backlog.work_s == pytest.approx({"H100": 1.1, "cpu": 11.0})
    assert (backlog.jobs, backlog.queued) == (2, 1)


def test_a_running_job_delays_none_by_more_than_it_computes_itself() -> None:
    running = {"H100": Running.of([10.0, 0.05]), "cpu": Running.of([100.0, 0.5])}
    backlog = Backlog(Fleet(TABLES, {"cpu": 1}), {"H100": 0.0, "cpu": 0.0}, jobs=2, running=running)
    assert estimate(REQUEST, backlog).wait_s == pytest.approx(0.5 + 1.0)
    assert queued_eta(REQUEST, backlog.behind(REQUEST), 0) == pytest.approx(0.5 + 1.0 + 1.0)
    check_deadline(REQUEST.model_copy(update={"deadline_ms": 2600}), backlog)
    with pytest.raises(QueueFull, match=r"beside it take about 1\.5 s"):
        check_deadline(REQUEST.model_copy(update={"deadline_ms": 2400}), backlog)


def test_four_interactive_jobs_go_before_each_bulk_job() -> None:
    fleet, first = Fleet({"cpu": SLOW}, {"cpu": 1}), {"cpu": 1000 * 2.0}
    alone = Backlog(fleet, {"cpu": 0.0}, first_s=first, first_jobs=1000)
    assert alone.wait_s(REQUEST) == pytest.approx(4 * 2.0)
    check_deadline(REQUEST.model_copy(update={"deadline_ms": 9100}), alone)
    third = Backlog(fleet, {"cpu": 3.0}, jobs=3, queued=3, first_s=first, first_jobs=1000)
    assert queued_eta(REQUEST, third, 0) == pytest.approx(4 * 2.0 + 1.0)
    assert queued_eta(REQUEST, third, 2) == pytest.approx(2 * 1.0 + 12 * 2.0 + 1.0)
    assert Backlog(fleet, {"cpu": 0.0}, first_s={"cpu": 6.0}, first_jobs=3).wait_s(REQUEST) == pytest.approx(6.0)


def test_a_running_job_goes_on_at_its_pace_and_ends_with_decoding_and_storing() -> None:
    table = step_times("paint", 8, cells(row_s=0.1, decode=0.5, store=0.25))
    fleet, now = Fleet({"cpu": table}, {"cpu": 1}), datetime.now(UTC)
    eta = running_eta(5, REQUEST.run_steps, now - timedelta(seconds=10), REQUEST, fleet)
    assert eta == pytest.approx(10 + 0.75, abs=0.5)
    assert running_eta(0, REQUEST.run_steps, now, REQUEST, fleet) == pytest.approx(1.0 + 0.75)
