"""Which slots go into the next UNet call: pure logic on an injected clock, without torch, models or Redis.

A slot is one image of a job: a latent, a plan of rows and a position in it. Slots batch when model and latent shape
agree; all else is gathered per row. Every slot advances: what was served longest ago goes first, bulk counts as served
`ageing_s` later than it was, and models take turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from contract.base import Lane
from contract.measurements import Shape

AGEING_S = 2.0
MAX_ROWS_PER_STEP = 3  # told of text and picture, of the picture alone, of neither


@dataclass(slots=True, eq=False)
class Slot:
    """One image while it is denoised. `shape` is its latent's (c, h, w), `rows_per_step` 2 with guidance (3 where a
    picture leads beside the text), else 1, and 1 in the calls of `unguided` positions; `claimed_for` is the model whose
    room it takes, where that was another's when the job was claimed.
    """

    job_id: str
    index: int
    model: str
    shape: Shape
    rows_per_step: int
    plan_len: int
    position: int = 0
    lane: Lane = "interactive"
    strict: bool = False
    unguided: frozenset[int] = frozenset()
    goes_on: bool = False  # behind its last row another stage of the image begins
    claimed_for: str = ""
    served: float = field(default=0.0, init=False)
    turn: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.claimed_for = self.claimed_for or self.model

    @property
    def done(self) -> bool:
        return self.position >= self.plan_len

    @property
    def rows(self) -> int:
        """Its rows in the next call."""
        return 1 if self.position in self.unguided else self.rows_per_step

    @property
    def group(self) -> Group:
        return Group(self.model, self.shape)


@dataclass(frozen=True, slots=True)
class Group:
    """What slots of one call have in common."""

    model: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Batch:
    """One UNet call: the rows of each slot in it, and `padded_rows` with the padding that fills a strict size."""

    group: Group
    slots: tuple[Slot, ...]
    slot_rows: tuple[int, ...]
    padded_rows: int
    strict: bool

    @property
    def model(self) -> str:
        return self.group.model

    @property
    def rows(self) -> int:
        return sum(self.slot_rows)


@dataclass(frozen=True, slots=True)
class Policy:
    """How workers batch; what `latentd plan` compares.

    `max_rows` bounds a fast call; a call that carries a strict slot has exactly `strict_rows` rows. `ageing_s` is how
    much longer a bulk slot waits than an interactive one before it goes first. With `buckets` fast calls are padded to
    1, 2, 4, 8, … rows, as those of GPUs are, so that few shapes have to be captured or compiled.
    """

    max_rows: int = 16
    strict_rows: int = 16
    ageing_s: float = AGEING_S
    buckets: bool = False


class StepScheduler:
    """Keeps the slots of a worker and hands out one call at a time."""

    def __init__(self, clock: Callable[[], float], policy: Policy) -> None:
        rows, strict_rows = policy.max_rows, policy.strict_rows
        if rows < 1 or strict_rows < 2:
            raise ValueError(f"max_rows is {rows}, at least 1; strict_rows is {strict_rows}, at least 2")
        self._clock = clock
        self._policy = policy
        self._slots: dict[tuple[str, int], Slot] = {}
        self._ceilings: dict[tuple[str, Shape], int] = {}
        self._parted: set[Group] = set()
        self._last_turn: dict[str, int] = {}
        self._last_served: dict[str, float] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        """Admit a slot.

        Raises:
            ValueError: it is there already, has ended, or fits no call.
        """
        key = (slot.job_id, slot.index)
        if key in self._slots or slot.done:
            raise ValueError(f"slot {key} is {'ended' if slot.done else 'there already'}")
        if not 1 <= slot.rows_per_step <= MAX_ROWS_PER_STEP:
            raise ValueError(f"rows_per_step of slot {key} is {slot.rows_per_step}, 1 to {MAX_ROWS_PER_STEP}")
        slot.served, slot.turn = self._clock(), self._next_turn()
        self._slots[key] = slot

    def remove(self, job_id: str) -> tuple[Slot, ...]:
        """Take out what is left of a job (cancelled, failed, handed back); its slots leave the next call."""
        keys = [key for key in self._slots if key[0] == job_id]
        return tuple(self._slots.pop(key) for key in keys)

    def slots(self, job_id: str) -> tuple[Slot, ...]:
        return tuple(slot for slot in self._slots.values() if slot.job_id == job_id)

    def next_batch(self, isolated: str | None = None) -> Batch | None:
        """Return the next call's slots, of nothing but `isolated` where it is given; None when idle.

        Nothing changes until `advance`, so that a call that failed for want of memory can be asked for again after
        `lower_ceiling`.
        """
        slots = tuple(self._slots.values()) if isolated is None else self.slots(isolated)
        if not slots:
            return None
        turn = self._whose_turn(slots)
        first = min((slot for slot in slots if slot.model == turn), key=self._due)
        peers = sorted((slot for slot in slots if slot.group == first.group), key=self._due)
        return self._strict_batch(peers) if first.strict else self._fast_batch(peers)

    def advance(self, batch: Batch) -> tuple[Slot, ...]:
        """Count a finished call: each slot still here moves one row on; those at their end leave and are returned."""
        now = self._clock()
        self._last_turn[batch.model], self._last_served[batch.model] = self._next_turn(), now
        moved = [slot for slot in batch.slots if self._slots.get((slot.job_id, slot.index)) is slot]
        for slot in moved:  # in their order, so that who was first in this call is first among equals in the next
            slot.position, slot.served, slot.turn = slot.position + 1, now, self._next_turn()
        ended = tuple(slot for slot in moved if slot.done)
        for slot in ended:
            del self._slots[slot.job_id, slot.index]
        return ended

    def capacity(self, model: str, lane: Lane = "interactive") -> int:
        """Return how many more slots, were they guided, to admit of jobs claimed for a model: both lanes up to two
        calls' rows, bulk to one call's, so that interactive finds room beside it, and it beside interactive."""
        slots = [slot for slot in self._slots.values() if slot.claimed_for == model]
        rows = 2 * self._policy.max_rows - _rows(slots)
        if lane == "bulk":
            rows = min(rows, self._policy.max_rows - _rows(slot for slot in slots if slot.lane == "bulk"))
        return max(0, (rows + 1) // 2)

    def lower_ceiling(self, model: str, shape: Shape, rows: int) -> None:
        """Remember that a fast call of this model and shape may have at most `rows` rows (it ran out of memory with
        more). Strict calls keep their size; a guided slot's two rows are never parted."""
        known = self._ceilings.get((model, shape), self._policy.max_rows)
        self._ceilings[model, shape] = max(1, min(rows, known))

    def part_strict(self, group: Group) -> None:
        """Remember that a strict call of this group carries one slot, and padding: it ran out of memory with more, of
        which others may have brought what was too much."""
        self._parted.add(group)

    def ceiling(self, model: str, shape: Shape) -> int:
        """Return the most rows of a fast call of this model and shape."""
        return self._ceilings.get((model, shape), self._policy.max_rows)

    def _whose_turn(self, slots: Sequence[Slot]) -> str:
        """Return the model served longest ago; one with nothing but bulk counts as served `ageing_s` later."""
        urgent = {slot.model for slot in slots if slot.lane == "interactive"}
        return min(
            {slot.model: None for slot in slots},
            key=lambda model: (
                self._last_served.get(model, -math.inf) + (0.0 if model in urgent else self._policy.ageing_s),
                self._last_turn.get(model, 0),
            ),
        )

    def _due(self, slot: Slot) -> tuple[float, int]:
        return slot.served + (self._policy.ageing_s if slot.lane == "bulk" else 0.0), slot.turn

    def _fast_batch(self, peers: Sequence[Slot]) -> Batch:
        group = peers[0].group
        limit = self.ceiling(group.model, group.shape)
        slots = _fill([slot for slot in peers if not slot.strict], limit)
        rows = tuple(slot.rows for slot in slots)
        return Batch(group, slots, rows, self._padded(sum(rows), limit), strict=False)

    def _padded(self, rows: int, limit: int) -> int:
        """Return the rows of a call with padding, where there is any: a power of two, or the most that is allowed."""
        return max(rows, min(1 << (rows - 1).bit_length(), limit)) if self._policy.buckets else rows

    def _strict_batch(self, peers: Sequence[Slot]) -> Batch:
        strict_first, group = sorted(peers, key=lambda slot: not slot.strict), peers[0].group
        slots = _fill(strict_first[:1] if group in self._parted else strict_first, self._policy.strict_rows)
        rows = tuple(slot.rows for slot in slots)
        return Batch(group, slots, rows, max(self._policy.strict_rows, sum(rows)), strict=True)

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn


def _fill(slots: Sequence[Slot], limit: int) -> tuple[Slot, ...]:
    """Take as many slots as fit `limit` rows, in order; the first one always goes."""
    taken: list[Slot] = []
    rows = 0
    for slot in slots:
        if not taken or rows + slot.rows <= limit:
            taken.append(slot)
            rows += slot.rows
    return tuple(taken)


def _rows(slots: Iterable[Slot]) -> int:
    return sum(slot.rows_per_step for slot in slots)
