"""One simulated worker: the real step scheduler, and the engine's order of work with seconds in place of networks."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.claim_policy import CHUNK, STORING_THREADS, ClaimOrder, Place
from workers.engine.scheduler import Batch, Slot, StepScheduler
from workers.planner.costs import Costs, JobCost


@dataclass(frozen=True, slots=True)
class Policy:
    """How workers batch; what `latentd plan` compares. `ageing_s`: how much longer bulk waits for its step."""

    max_rows: int = 16
    strict_rows: int = 16
    ageing_s: float = 2.0


@dataclass(slots=True, eq=False)
class SimJob:
    """One job; times in seconds, of the simulation's clock."""

    number: int
    cost: JobCost
    arrived: float
    started: float = -1.0
    ended: float = -1.0
    unstored: int = field(init=False)

    def __post_init__(self) -> None:
        self.unstored = self.cost.images

    @property
    def place(self) -> Place:
        return self.cost.model, self.cost.lane


@dataclass(slots=True)
class Work:
    """Sums over a worker's life."""

    busy_s: float = 0.0
    calls: int = 0
    rows: int = 0


class SimWorker:
    """Mirrors `workers.engine.engine.Engine.turn`, the loop's room for claims, and the storing threads beside them."""

    def __init__(self, costs: Costs, policy: Policy, clock: Callable[[], float]) -> None:
        self.order = ClaimOrder(costs.models)
        self.work = Work()
        self.ticket = 0  # of the newest event that was planned for it; older ones are void
        self._costs = costs
        self._clock = clock
        self._scheduler = StepScheduler(
            clock, max_rows=policy.max_rows, strict_rows=policy.strict_rows, ageing_s=policy.ageing_s
        )
        self._jobs: dict[str, SimJob] = {}
        self._unprepared: deque[SimJob] = deque()
        self._undecoded: list[SimJob] = []
        self._decoded_last = False
        self._finish: Callable[[], int] | None = None
        self._threads = [0.0] * STORING_THREADS
        self._stores: list[tuple[float, int, SimJob]] = []

    def room(self, place: Place) -> int:
        """How many more images of this model and lane may be claimed."""
        model, lane = place
        waiting = sum(job.cost.images for job in self._unprepared if job.cost.model == model)
        waiting += sum(job.cost.model == model for job in self._undecoded)
        waiting += sum(job.cost.model == model for _, _, job in self._stores)
        return max(0, self._scheduler.room(model, lane) - waiting)

    def admit(self, job: SimJob) -> None:
        self._jobs[str(job.number)] = job
        self._unprepared.append(job)

    def begin(self) -> float | None:
        """The seconds of the next turn, None if there is nothing to compute."""
        if self._unprepared:
            job = self._unprepared.popleft()
            return self._turn(job.cost.encode_s, lambda: self._prepared(job))
        batch = self._scheduler.next_batch()
        if self._undecoded and not (self._decoded_last and batch is not None):
            self._decoded_last = True
            chunk = self._next_chunk()
            return self._turn(len(chunk) * chunk[0].cost.decode_s, lambda: self._decoded(chunk))
        self._decoded_last = False
        return None if batch is None else self._call(batch)

    def finish(self) -> int:
        """Let the turn that began last take effect; how many events it tells Redis."""
        finish, self._finish = self._finish, None
        return 0 if finish is None else finish()

    def ended(self) -> list[SimJob]:
        """Jobs whose last image is stored by now; the worker holds them no more."""
        ended = []
        while self._stores and self._stores[0][0] <= self._clock():
            job = heapq.heappop(self._stores)[2]
            job.unstored -= 1
            if not job.unstored:
                ended.append(self._jobs.pop(str(job.number)))
        return ended

    @property
    def next_stored(self) -> float | None:
        """When the next image will be in storage."""
        return self._stores[0][0] if self._stores else None

    def _turn(self, seconds: float, finish: Callable[[], int]) -> float:
        self.work.busy_s += seconds
        self._finish = finish
        return seconds

    def _call(self, batch: Batch) -> float:
        self.work.calls += 1
        self.work.rows += batch.rows
        seconds = self._costs.call_s(batch.model, batch.group.shape, batch.padded_rows)
        return self._turn(seconds, lambda: self._called(batch))

    def _called(self, batch: Batch) -> int:
        self._undecoded += [self._jobs[slot.job_id] for slot in self._scheduler.advance(batch)]
        return len({slot.job_id for slot in batch.slots})

    def _prepared(self, job: SimJob) -> int:
        cost = job.cost
        for index in range(cost.images):
            slot = Slot(str(job.number), index, cost.model, cost.shape, cost.rows, cost.steps)
            slot.lane, slot.strict = cost.lane, cost.strict
            self._scheduler.add(slot)
        return 0

    def _next_chunk(self) -> list[SimJob]:
        first = self._undecoded[0].cost
        limit = 1 if first.strict else CHUNK
        group = (first.model, first.shape)
        alike = [
            place
            for place, job in enumerate(self._undecoded)
            if place == 0 or ((job.cost.model, job.cost.shape) == group and not job.cost.strict)
        ][:limit]
        chunk = [self._undecoded[place] for place in alike]
        for place in reversed(alike):
            del self._undecoded[place]
        return chunk

    def _decoded(self, chunk: list[SimJob]) -> int:
        for job in chunk:
            stored = max(self._threads[0], self._clock()) + job.cost.store_s
            heapq.heapreplace(self._threads, stored)
            heapq.heappush(self._stores, (stored, job.number, job))
        return len(chunk)
