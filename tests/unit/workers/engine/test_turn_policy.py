"""What a worker does next, on a clock that the test turns."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import TypeVar

from workers.engine.scheduler import Batch, Policy, Slot
from workers.engine.turn_policy import (
    DECODE_CHUNK,
    CallUNet,
    Decode,
    EndLate,
    Enlarge,
    Prepare,
    Preview,
    Turn,
    TurnPolicy,
)

T = TypeVar("T")
SHAPE = (4, 32, 32)


@dataclass
class PolicyBench:
    """A policy with its clock, whose turns take no time; each prepared job gets the slots that were given with it."""

    max_rows: int = 16
    buckets: bool = False
    now: float = 0.0
    jobs: dict[str, list[Slot]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = TurnPolicy(lambda: self.now, Policy(self.max_rows, strict_rows=4, buckets=self.buckets))

    def admit(self, *slots: Slot, deadline: float | None = None) -> None:
        """A job of these slots."""
        job_id = slots[0].job_id
        self.jobs[job_id] = list(slots)
        self.policy.admit(job_id, slots[0].model, len(slots), deadline)

    def turn(self) -> Turn | None:
        """The next turn, and its effect."""
        turn = self.policy.next()
        if isinstance(turn, Prepare):
            self.policy.start(self.jobs[turn.job_id])
        elif isinstance(turn, CallUNet):
            self.policy.advance(turn.batch)
        elif isinstance(turn, EndLate):
            for job_id in turn.job_ids:
                self.policy.drop(job_id)
        return turn

    def until(self, kind: type[T]) -> T:
        """The next turn of this kind."""
        for _ in range(1000):
            turn = self.turn()
            if isinstance(turn, kind):
                return turn
        raise AssertionError(f"no {kind.__name__} came")

    def calls(self) -> list[list[str]]:
        """The job ids of every call until the end; a job is dropped with its last image."""
        found = []
        while (turn := self.turn()) is not None:
            if isinstance(turn, CallUNet):
                found.append(ids(turn.batch))
            elif isinstance(turn, Decode):
                for slot in turn.slots:
                    self.jobs[slot.job_id].remove(slot)
                    if not self.jobs[slot.job_id]:
                        self.policy.drop(slot.job_id)
        return found


def slot(job: str, index: int = 0, steps: int = 2, **other: object) -> Slot:
    return Slot(job, index, str(other.pop("model", "emoji")), SHAPE, 2, steps, **other)  # type: ignore[arg-type]  # as the test names them


def ids(batch: Batch) -> list[str]:
    return sorted(one.job_id for one in batch.slots)


def test_idle_has_no_turn() -> None:
    assert PolicyBench().turn() is None


def test_a_job_is_prepared_called_and_decoded() -> None:
    bench = PolicyBench()
    bench.admit(slot("a"))
    assert [type(bench.turn()) for _ in range(5)] == [Prepare, CallUNet, CallUNet, Decode, type(None)]


def test_who_waits_for_preparation_goes_before_previews_and_these_before_calls() -> None:
    bench = PolicyBench()
    bench.admit(slot("a", steps=9))
    bench.until(CallUNet)
    bench.policy.preview("a")
    bench.admit(slot("b", steps=9))
    assert [bench.turn() for _ in range(2)] == [Prepare("b"), Preview("a")]
    assert isinstance(bench.turn(), CallUNet)


def test_a_finished_image_of_an_earlier_execution_is_only_decoded() -> None:
    bench = PolicyBench()
    bench.admit(slot("a", 0, position=2), slot("a", 1))
    assert isinstance(bench.turn(), Prepare)
    turn = bench.turn()
    assert isinstance(turn, Decode)
    assert [one.index for one in turn.slots] == [0]


def test_calls_and_decoding_alternate() -> None:
    bench = PolicyBench()
    bench.admit(*(slot("s", k, strict=True, position=2) for k in range(3)))
    bench.admit(slot("long", steps=20))
    bench.until(Prepare)
    bench.until(Prepare)
    assert [type(bench.turn()) for _ in range(8)] == [Decode, CallUNet] * 3 + [CallUNet] * 2


def test_images_of_one_model_and_shape_are_decoded_together_strict_ones_singly() -> None:
    bench = PolicyBench(max_rows=64)
    bench.admit(*(slot("a", k, position=2) for k in range(DECODE_CHUNK + 1)))
    bench.admit(slot("s", strict=True, position=2), slot("s", 1, strict=True, position=2))
    bench.admit(slot("u", model="up", position=2))
    turns = [turn for turn in (bench.turn() for _ in range(9)) if isinstance(turn, Decode)]
    assert [[one.job_id for one in turn.slots] for turn in turns] == [["a"] * DECODE_CHUNK, ["a"], ["s"], ["s"], ["u"]]


def test_a_chunk_without_memory_is_halved_for_good_and_its_images_keep_their_place() -> None:
    bench = PolicyBench(max_rows=64)
    bench.admit(*(slot("a", k, position=2) for k in range(6)))
    chunk = bench.until(Decode)
    bench.policy.halve_chunk(chunk.slots)
    turns = [turn for turn in (bench.turn() for _ in range(4)) if isinstance(turn, Decode)]
    assert [[one.index for one in turn.slots] for turn in turns] == [[0, 1], [2, 3], [4, 5]]


def test_a_call_without_memory_is_halved() -> None:
    bench = PolicyBench()
    bench.admit(*(slot("a", k) for k in range(8)))
    bench.turn()
    call = bench.policy.next()
    assert isinstance(call, CallUNet)
    bench.policy.split_call(call.batch)
    again = bench.policy.next()
    assert isinstance(again, CallUNet)
    assert (call.batch.rows, again.batch.rows) == (16, 8)


def test_of_a_padded_call_without_memory_the_rows_that_it_had_are_halved_until_one_image_is_left() -> None:
    bench = PolicyBench(buckets=True)
    bench.admit(*(slot("a", k) for k in range(5)))
    bench.turn()
    sizes = []
    while isinstance(call := bench.policy.next(), CallUNet) and len(call.batch.slots) > 1:
        sizes.append((call.batch.rows, call.batch.padded_rows))
        bench.policy.split_call(call.batch)
    assert sizes == [(10, 16), (8, 8), (4, 4)]


def test_late_jobs_end_first_and_each_once() -> None:
    bench = PolicyBench()
    bench.admit(slot("a"), slot("a", 1), deadline=2.0)
    bench.admit(slot("b"), deadline=9.0)
    bench.admit(slot("c"), deadline=1.0)
    assert bench.turn() == Prepare("a")
    bench.now = 2.0
    assert bench.turn() == EndLate(("a", "c"))
    assert bench.turn() == Prepare("b")


def test_room_counts_what_waits_for_preparation_steps_and_decoding() -> None:
    bench = PolicyBench(max_rows=8)
    assert (bench.policy.capacity("emoji"), bench.policy.capacity("emoji", "bulk")) == (8, 4)
    bench.admit(slot("a", steps=1), slot("a", 1, steps=3))
    assert bench.policy.capacity("emoji") == 6
    bench.until(CallUNet)
    assert bench.policy.capacity("emoji") == 6
    bench.until(Decode)
    assert bench.policy.capacity("emoji") == 7
    assert bench.policy.capacity("up") == 8


def test_while_a_job_is_isolated_the_others_stand_still_at_every_stage() -> None:
    bench = PolicyBench()
    bench.admit(slot("steps", steps=9))
    bench.admit(slot("decodes", position=2))
    bench.until(Prepare)
    bench.until(Prepare)
    bench.policy.preview("steps")
    bench.admit(slot("waits"))
    bench.admit(slot("isolated", steps=2))
    bench.policy.isolate("isolated")
    assert (bench.policy.isolated, bench.policy.capacity("emoji")) == ("isolated", 0)
    turns = [bench.turn() for _ in range(4)]
    assert turns[0] == Prepare("isolated")
    assert [ids(turn.batch) for turn in turns if isinstance(turn, CallUNet)] == [["isolated"]] * 2
    assert isinstance(turns[3], Decode)
    assert [one.job_id for one in turns[3].slots] == ["isolated"]
    assert bench.turn() is None
    bench.policy.rejoin()
    assert bench.policy.capacity("emoji") > 0
    assert bench.turn() == Prepare("waits")


def test_dropping_the_isolated_job_lets_the_others_go_on() -> None:
    bench = PolicyBench()
    bench.admit(slot("a", steps=2))
    bench.admit(slot("b", steps=2))
    bench.admit(slot("c", steps=1))
    bench.policy.isolate("a")
    assert bench.calls() == [["a"], ["a"], ["b", "c"], ["b"]]
    assert bench.policy.isolated is None


def test_two_isolated_jobs_follow_each_other() -> None:
    bench = PolicyBench()
    bench.admit(slot("a"), slot("a", 1))
    bench.admit(slot("b", steps=1))
    bench.policy.isolate("a")
    bench.policy.isolate("b")
    assert bench.calls() == [["a", "a"], ["a", "a"], ["b"]]


def test_a_dropped_job_is_gone_at_every_stage() -> None:
    bench = PolicyBench()
    bench.admit(slot("a", steps=9), slot("a", 1, position=9, steps=9), deadline=1.0)
    bench.until(Prepare)
    bench.policy.preview("a")
    bench.policy.drop("a")
    bench.now = 2.0
    bench.policy.drop("never seen")
    assert bench.turn() is None
    assert bench.policy.capacity("emoji") == 16


def test_rejoining_without_an_isolated_job_changes_nothing() -> None:
    bench = PolicyBench()
    bench.policy.rejoin()
    bench.admit(slot("a"))
    assert bench.turn() == Prepare("a")


def test_it_needs_no_torch() -> None:
    code = "import sys, workers.engine.turn_policy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_job_takes_room_of_the_model_that_it_was_claimed_for_in_all_stages() -> None:
    bench = PolicyBench(max_rows=4)
    bench.admit(slot("two", steps=1, goes_on=True))
    rooms = []
    for _ in range(3):
        rooms.append((bench.policy.capacity("emoji"), bench.policy.capacity("up")))
        bench.until(Enlarge) if len(rooms) == 1 else bench.turn()
        if len(rooms) == 1:
            bench.policy.start([slot("two", model="up", steps=1, claimed_for="emoji")])
    assert rooms == [(3, 4)] * 3


def test_who_waits_for_pixels_longest_goes_first_also_before_those_that_are_enlarged() -> None:
    bench = PolicyBench(max_rows=4)
    first, *later = (slot(job, steps=0, goes_on=job != "done") for job in ("done", "a", "b", "c"))
    bench.policy.start([first, *later, last := slot("last", steps=0)])
    assert bench.turn() == Decode((first, last))
    assert [type(bench.turn()) for _ in range(3)] == [Enlarge] * 3


def test_an_image_between_two_stages_waits_with_those_to_decode_and_keeps_its_place() -> None:
    bench = PolicyBench(max_rows=4)
    first = Slot("two", 0, "m", SHAPE, 1, 1, goes_on=True)
    bench.admit(first)
    bench.admit(Slot("other", 0, "m", SHAPE, 1, 9))
    assert bench.until(Enlarge).slot is first
    bench.policy.start([Slot("two", 0, "m", (4, 64, 64), 1, 2)])
    assert bench.until(Decode).slots[0].shape == (4, 64, 64)
    room = bench.policy.capacity("m")
    bench.policy.start([Slot("late", 0, "m", SHAPE, 1, 1, position=1, goes_on=True)])
    assert bench.policy.capacity("m") == room - 1
    bench.policy.drop("late")
    assert bench.policy.capacity("m") == room
    assert bench.until(Decode).slots[0].job_id == "other"
