"""When states are saved, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from contract.redis_keys import state_key
from core.storage import open_store
from jobs.run import JobRun
from models.checkpoints.load import load
from tests.engines import make_engine
from tests.enqueue import enqueue, make_request
from tests.tiny import write_tiny_inpaint
from tests.unit.workers.parts import claim, make_worker
from workers.engine.engine import Engine
from workers.engine.messages import Admission
from workers.queue.savepoints import Savepoints
from workers.runs.saving import FIRST_SAVE_S, SAVE_S, Saving
from workers.runs.table import Phase, RunTable


@dataclass
class SavingBench:
    """A job in an engine, and its savepoints."""

    run: JobRun
    redis: Redis
    engine: Engine
    savepoints: Savepoints
    now: float = 100.0

    def __post_init__(self) -> None:
        table = RunTable()
        table.add(self.run)
        table.move(self.run, Phase.COMPUTING)
        self.saving = Saving(table, self.engine, self.savepoints, SAVE_S, lambda: self.now)
        self.engine.admit(Admission("a", self.run.request))
        self.engine.turn()
        self.saving.prepared(self.run, 0)

    def step(self) -> None:
        """One UNet call."""
        self.engine.turn()
        self.run.step += 1

    def saved(self) -> int:
        """Save what is due; the step of the state that is kept then."""
        self.saving.save_due()
        self.savepoints.write(self.run, b"") if self.saving.busy else None  # waits for the thread, and is refused
        return int(self.redis.hget(state_key("a"), "step") or 0)


@pytest.fixture
def bench(redis: Redis, tmp_path: Path) -> Iterator[SavingBench]:
    enqueue(redis, "a", make_request(steps=50))
    savepoints = Savepoints(redis, open_store(str(tmp_path / "objects")), {"tiny": "hash"})
    engine = make_engine({"tiny": load(write_tiny_inpaint(tmp_path / "tiny"))})
    yield SavingBench(claim(make_worker(redis)), redis, engine, savepoints)
    savepoints.close()


def test_the_first_savepoint_comes_early_and_the_next_after_the_interval(bench: SavingBench) -> None:
    bench.step()
    assert bench.saved() == 0
    bench.now += FIRST_SAVE_S
    assert bench.saved() == 1
    bench.step()
    bench.now += SAVE_S - 0.1
    assert bench.saved() == 1
    bench.now += 0.1
    assert bench.saved() == 2


def test_a_state_that_is_no_newer_is_not_saved(bench: SavingBench) -> None:
    bench.now += 10.0
    assert bench.saved() == 0
    assert not bench.redis.exists(state_key("a"))


def test_all_are_saved_at_once_when_asked(bench: SavingBench) -> None:
    bench.step()
    bench.saving.save_all()
    assert bench.saved() == 1


def test_a_job_that_is_handed_back_is_saved_before_anything_else(bench: SavingBench) -> None:
    bench.step()
    bench.step()
    bench.saving.save_now(bench.run)
    assert (bench.saving.busy, bench.redis.hget(state_key("a"), "step")) == (False, b"2")
