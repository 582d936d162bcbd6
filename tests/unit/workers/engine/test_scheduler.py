"""What the step scheduler promises, on a clock that the test turns."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from workers.engine.scheduler import Batch, Policy, Slot, StepScheduler

SHAPE = (4, 32, 32)
WIDE = (4, 32, 64)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SchedulerBench:
    """A scheduler with its clock, on which every call takes one second."""

    clock: Clock
    scheduler: StepScheduler

    @classmethod
    def of(cls, max_rows: int = 16, strict_rows: int = 4, ageing_s: float = 2.0) -> SchedulerBench:
        clock = Clock()
        return cls(clock, StepScheduler(clock, Policy(max_rows, strict_rows, ageing_s)))

    def add(self, *slots: Slot) -> None:
        for one in slots:
            self.scheduler.add(one)

    def next(self) -> Batch:
        batch = self.scheduler.next_batch()
        assert batch is not None
        return batch

    def step(self) -> Batch:
        batch = self.next()
        self.clock.now += 1.0
        self.scheduler.advance(batch)
        return batch

    def drain(self, most: int = 100_000) -> list[Batch]:
        batches: list[Batch] = []
        while len(self.scheduler) and len(batches) < most:
            batches.append(self.step())
        assert len(self.scheduler) == 0
        return batches


def slot(job: str, rows: int = 2, steps: int = 5, **other: object) -> Slot:
    return Slot(job, 0, str(other.pop("model", "emoji")), SHAPE, rows, steps, **other)  # type: ignore[arg-type]


def ids(batch: Batch) -> list[str]:
    return sorted(one.job_id for one in batch.slots)


def test_idle_hands_out_nothing() -> None:
    assert SchedulerBench.of().scheduler.next_batch() is None


def test_a_call_changes_nothing_until_it_is_counted() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("a"), slot("b"))
    assert bench.next() == bench.next()
    assert all(one.position == 0 for one in bench.next().slots)


def test_slots_at_their_end_are_returned_and_leave() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("a", steps=1), slot("b", steps=2))
    ended = bench.scheduler.advance(bench.next())
    assert [one.job_id for one in ended] == ["a"]
    assert ids(bench.next()) == ["b"]


def test_twenty_four_rows_over_sixteen_row_calls_all_advance() -> None:
    bench = SchedulerBench.of()
    bench.add(*(slot(f"{i}", steps=100) for i in range(12)))
    for _ in range(9):
        bench.step()
    positions = [one.position for i in range(12) for one in bench.scheduler.slots(f"{i}")]
    assert max(positions) - min(positions) <= 1
    assert sum(positions) == 9 * 8


def test_twelve_mixed_requests_take_a_third_of_the_calls() -> None:
    """Steps 6 to 20, guided and not, two rows at most, started together."""
    steps = [6, 20, 9, 14, 11, 17, 8, 12, 19, 7, 15, 10]
    bench = SchedulerBench.of()
    bench.add(*(slot(f"{i}", 2 - i % 2, n) for i, n in enumerate(steps)))
    batches = bench.drain()
    assert len(batches) <= sum(steps) / 3
    assert max(batch.rows for batch in batches) == 16
    assert all(batch.padded_rows == batch.rows for batch in batches)


def test_strict_calls_have_exactly_their_size_filled_with_fast_slots() -> None:
    bench = SchedulerBench.of(strict_rows=4)
    bench.add(slot("s", strict=True), slot("f"), slot("g"))
    batch = bench.next()
    assert (ids(batch), batch.rows, batch.padded_rows, batch.strict) == (["f", "s"], 4, 4, True)
    bench.scheduler.remove("f")
    bench.scheduler.remove("g")
    batch = bench.next()
    assert (ids(batch), batch.rows, batch.padded_rows) == (["s"], 2, 4)


def test_strict_slots_fill_a_strict_call_before_fast_ones() -> None:
    bench = SchedulerBench.of(strict_rows=4)
    bench.add(slot("s", strict=True), slot("f"), slot("t", strict=True))
    assert ids(bench.step()) == ["s", "t"]
    batch = bench.step()
    assert (ids(batch), batch.strict) == (["f"], False)


def test_guided_rows_are_never_parted() -> None:
    bench = SchedulerBench.of(max_rows=3)
    bench.add(slot("a"), slot("b"), slot("c", rows=1))
    assert ids(bench.next()) == ["a", "c"]
    bench.scheduler.lower_ceiling("emoji", SHAPE, 1)
    assert bench.next().rows == 2


def test_models_take_turns() -> None:
    bench = SchedulerBench.of(max_rows=2)
    bench.add(*(slot(f"{i}", steps=50) for i in range(6)), slot("up", 1, 50, model="emoji-upscale"))
    assert [bench.step().model for _ in range(6)] == ["emoji", "emoji-upscale"] * 3


def test_shapes_of_a_model_are_not_mixed() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("a", steps=3), Slot("w", 0, "emoji", WIDE, 2, 3))
    assert [ids(bench.step()) for _ in range(2)] == [["a"], ["w"]]


def test_a_strict_call_is_not_filled_with_another_shape() -> None:
    bench = SchedulerBench.of(strict_rows=4)
    bench.add(Slot("s", 0, "emoji", WIDE, 2, 3, strict=True), slot("f"), Slot("g", 0, "emoji", WIDE, 2, 3))
    assert ids(bench.next()) == ["g", "s"]


def test_interactive_goes_before_bulk_until_bulk_has_waited_long_enough() -> None:
    bench = SchedulerBench.of(max_rows=2, ageing_s=3.5)
    bench.add(slot("b", steps=50, lane="bulk"), slot("i", steps=50))
    served = [ids(bench.step())[0] for _ in range(12)]
    assert served[:4] == ["i"] * 4
    assert served.count("b") == 2


def test_a_model_with_bulk_alone_gets_its_turn() -> None:
    bench = SchedulerBench.of(ageing_s=3.5)
    bench.add(slot("b", steps=50, lane="bulk", model="emoji-upscale"), slot("i", steps=50))
    served = [ids(bench.step())[0] for _ in range(20)]
    assert 3 <= served.count("b") <= 6


def test_bulk_fills_what_interactive_leaves() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("b", lane="bulk"), slot("i"))
    assert ids(bench.next()) == ["b", "i"]


def test_a_learned_ceiling_holds_for_its_shape_and_spares_strict_calls() -> None:
    bench = SchedulerBench.of(strict_rows=8)
    bench.add(*(slot(f"{i}") for i in range(8)))
    bench.scheduler.lower_ceiling("emoji", SHAPE, 4)
    bench.scheduler.lower_ceiling("emoji", SHAPE, 6)  # a ceiling never rises
    assert bench.next().rows == 4
    assert bench.scheduler.ceiling("emoji", (4, 8, 8)) == 16
    for i in range(8):
        bench.scheduler.remove(f"{i}")
    bench.add(slot("s", strict=True), slot("f"))
    assert bench.next().padded_rows == 8


def test_a_cancelled_job_leaves_the_running_call() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("a", steps=1), slot("b"))
    batch = bench.next()
    assert [one.job_id for one in bench.scheduler.remove("a")] == ["a"]
    assert bench.scheduler.advance(batch) == ()
    assert ids(bench.next()) == ["b"]


def test_room_counts_guided_slots_and_keeps_some_for_interactive() -> None:
    bench = SchedulerBench.of()
    assert (bench.scheduler.capacity("emoji", "bulk"), bench.scheduler.capacity("emoji")) == (8, 16)
    bench.add(*(slot(f"{i}", lane="bulk") for i in range(8)))
    assert (bench.scheduler.capacity("emoji", "bulk"), bench.scheduler.capacity("emoji")) == (0, 8)
    assert bench.scheduler.capacity("emoji-upscale", "bulk") == 8


def test_a_call_for_one_job_has_its_slots_alone() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("a"), slot("b"), Slot("b", 1, "emoji", SHAPE, 2, 5))
    batch = bench.scheduler.next_batch("b")
    assert batch is not None
    assert ids(batch) == ["b", "b"]
    assert bench.scheduler.next_batch("c") is None


def test_a_slot_that_cannot_run_is_refused() -> None:
    bench = SchedulerBench.of()
    bench.add(slot("a"))
    for wrong, says in (
        (slot("a"), "there already"),
        (slot("b", steps=0), "ended"),
        (slot("c", rows=4), "rows_per_step of slot .* is 4"),
    ):
        with pytest.raises(ValueError, match=says):
            bench.add(wrong)
    with pytest.raises(ValueError, match="strict_rows is 1"):
        SchedulerBench.of(strict_rows=1)


def test_it_needs_no_torch() -> None:
    code = "import sys, workers.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_with_buckets_calls_are_padded_to_few_sizes() -> None:
    scheduler = StepScheduler(lambda: 0.0, Policy(max_rows=12, strict_rows=6, buckets=True))
    padded = []
    for i in range(6):
        scheduler.add(Slot(f"j{i}", 0, "m", (4, 8, 8), 2, 5))
        batch = scheduler.next_batch()
        assert batch is not None
        padded.append((batch.rows, batch.padded_rows))
    assert padded == [(2, 2), (4, 4), (6, 8), (8, 8), (10, 12), (12, 12)]
    scheduler.lower_ceiling("m", (4, 8, 8), 7)
    batch = scheduler.next_batch()
    assert batch is not None
    assert (batch.rows, batch.padded_rows) == (6, 7)
    scheduler.add(Slot("strict", 0, "m", (4, 8, 8), 1, 5, strict=True))
    scheduler.lower_ceiling("m", (4, 8, 8), 1)
    batch = scheduler.next_batch()
    assert batch is not None
    assert (batch.rows, batch.padded_rows) == (2, 2)  # a guided slot's rows are never parted
