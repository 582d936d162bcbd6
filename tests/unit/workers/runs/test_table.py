"""The phases of a worker's job runs."""

from __future__ import annotations

import pytest
from redis import Redis

from jobs.end import HandedBack
from jobs.run import JobRun
from tests.enqueue import enqueue, make_request
from tests.unit.workers.parts import TINY, make_claims, make_worker
from workers.runs.table import Phase, RunTable


@pytest.fixture
def runs(redis: Redis) -> list[JobRun]:
    """Three claimed jobs; the second has four images."""
    for job_id, images in (("a", 1), ("b", 4), ("c", 1)):
        enqueue(redis, job_id, make_request(num_images=images))
    claims = make_claims(make_worker(redis))
    found = [claims.next(TINY) for _ in range(3)]
    return [run for run in found if run is not None]


@pytest.fixture
def table(runs: list[JobRun]) -> RunTable:
    made = RunTable()
    for run in runs:
        made.add(run)
    return made


def test_a_run_is_loading_first_and_moves_on(table: RunTable, runs: list[JobRun]) -> None:
    assert table.among(Phase.LOADING) == table.among() == table.runs() == runs
    table.move(runs[1], Phase.COMPUTING)
    table.move(runs[2], Phase.STORING)
    assert table.among(Phase.COMPUTING, Phase.STORING) == runs[1:]
    assert (table.find("b"), table.find("b", Phase.COMPUTING), table.find("b", Phase.LOADING)) == (
        runs[1],
        runs[1],
        None,
    )
    assert table.find("d") is None


def test_images_are_counted_by_model_and_phase(table: RunTable, runs: list[JobRun]) -> None:
    table.move(runs[1], Phase.COMPUTING)
    assert (table.images("tiny"), table.images("tiny", Phase.LOADING), table.images("other")) == (6, 2, 0)


def test_a_suspect_waits_before_anything_of_it_is_read(table: RunTable, runs: list[JobRun]) -> None:
    runs[0].isolated = True
    table.add(runs[0])
    assert (table.among(Phase.WAITING), table.among(Phase.LOADING)) == (runs[:1], runs[1:])


def test_ends_are_published_in_the_order_in_which_the_runs_ended(table: RunTable, runs: list[JobRun]) -> None:
    for run in reversed(runs):
        table.end(run, HandedBack())
    assert [run for run, _ in table.ending()] == runs[::-1]
    assert table.runs() == runs
    table.remove(runs[2])
    assert ([run for run, _ in table.ending()], len(table), list(table.job_ids)) == (runs[1::-1], 2, ["a", "b"])
