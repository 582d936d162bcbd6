"""The step scheduler under any mix of jobs: nothing starves, nothing mixes, sizes hold."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.scheduler import Batch, Policy, Slot, StepScheduler

AGEING_S = 4.0


@dataclass(frozen=True)
class NewSlot:
    """A job of some slots, and the call before which it arrives."""

    at: int
    slots: int
    model: str
    shape: tuple[int, int, int]
    rows: int
    steps: int
    lane: str
    strict: bool


arrivals = st.lists(
    st.builds(
        NewSlot,
        at=st.integers(0, 30),
        slots=st.integers(1, 4),
        model=st.sampled_from(["emoji", "upscale", "sd"]),
        shape=st.sampled_from([(4, 32, 32), (4, 8, 8)]),
        rows=st.integers(1, 2),
        steps=st.integers(1, 12),
        lane=st.sampled_from(["interactive", "bulk"]),
        strict=st.booleans(),
    ),
    min_size=1,
    max_size=20,
)
sizes = st.tuples(st.integers(1, 16), st.integers(2, 8))


class Simulated:
    """Every arrival to its end, one second a call; keeps each call and when each slot was last served."""

    def __init__(self, jobs: list[NewSlot], max_rows: int, strict_rows: int) -> None:
        self.now, self.calls = 0.0, 0
        self.max_rows, self.strict_rows = max_rows, strict_rows
        self.scheduler = StepScheduler(lambda: self.now, Policy(max_rows, strict_rows, AGEING_S))
        self.batches: list[Batch] = []
        self.waits: list[float] = []
        self.ended: list[Slot] = []
        self.waiting = [(job.at, slot) for i, job in enumerate(jobs) for slot in _slots(f"{i}", job)]
        self.total = sum(slot.plan_len for _, slot in self.waiting)
        self.drain()

    def drain(self) -> None:
        while self.waiting or len(self.scheduler):
            for at, slot in [pair for pair in self.waiting if pair[0] <= self.calls or not len(self.scheduler)]:
                self.scheduler.add(slot)
                self.waiting.remove((at, slot))
            self.step()

    def step(self) -> None:
        batch = self.scheduler.next_batch()
        assert batch is not None
        self.check(batch)
        self.waits += [self.now - slot.served for slot in batch.slots]
        self.now, self.calls = self.now + 1.0, self.calls + 1
        self.ended += self.scheduler.advance(batch)
        self.batches.append(batch)

    def check(self, batch: Batch) -> None:
        assert len({slot.group for slot in batch.slots}) == 1
        assert len(set(map(id, batch.slots))) == len(batch.slots)
        assert batch.strict == any(slot.strict for slot in batch.slots)
        assert batch.rows == sum(slot.rows_per_step for slot in batch.slots) <= batch.padded_rows
        if batch.strict:
            assert batch.padded_rows == self.strict_rows
        else:
            assert batch.rows <= max(self.max_rows, batch.slots[0].rows_per_step)
            assert batch.padded_rows == batch.rows


def _slots(job_id: str, job: NewSlot) -> list[Slot]:
    return [
        Slot(
            job_id, k, job.model, job.shape, job.rows, job.steps,
            lane=job.lane, strict=job.strict,  # type: ignore[arg-type]  # a lane, as drawn
        )
        for k in range(job.slots)
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(arrivals, sizes)
def test_every_slot_ends_after_exactly_its_rows(jobs: list[NewSlot], size: tuple[int, int]) -> None:
    run = Simulated(jobs, *size)
    assert len(run.ended) == sum(job.slots for job in jobs)
    assert sum(len(batch.slots) for batch in run.batches) == run.total


@settings(deadline=None, max_examples=60)
@given(arrivals, sizes)
def test_no_slot_starves(jobs: list[NewSlot], size: tuple[int, int]) -> None:
    """Between two of its rows a slot waits for no more than every other's and bulk's ageing, per model in turn."""
    run = Simulated(jobs, *size)
    models = len({job.model for job in jobs})
    slots = sum(job.slots for job in jobs)
    assert max(run.waits, default=0.0) <= models * (slots + AGEING_S + 1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(6, 20)), min_size=12, max_size=12))
def test_twelve_at_once_take_at_most_a_third_of_the_calls(kinds: list[tuple[int, int]]) -> None:
    jobs = [NewSlot(0, 1, "emoji", (4, 32, 32), rows, steps, "interactive", False) for rows, steps in kinds]
    run = Simulated(jobs, 16, 4)
    assert len(run.batches) <= sum(steps for _, steps in kinds) / 3


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(5, 40))
def test_equals_advance_together(slots: int, calls: int) -> None:
    scheduler = StepScheduler(lambda: 0.0, Policy(max_rows=4, strict_rows=4))
    equals = [Slot(f"{i}", 0, "emoji", (4, 8, 8), 2, 1000) for i in range(slots)]
    for slot in equals:
        scheduler.add(slot)
    for _ in range(calls):
        batch = scheduler.next_batch()
        assert batch is not None
        scheduler.advance(batch)
    assert max(slot.position for slot in equals) - min(slot.position for slot in equals) <= 1
