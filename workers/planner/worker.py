"""One simulated worker: the turn policy that the engine obeys, with seconds in place of networks."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from contract.events import TELL_S
from workers.claim_policy import STORING_THREADS, ClaimOrder, ModelLane
from workers.engine.scheduler import Batch, Policy, Slot
from workers.engine.turn_policy import CallUNet, Decode, Prepare, TurnPolicy
from workers.planner.costs import Costs, JobCost


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
    def job_id(self) -> str:
        return str(self.number)

    @property
    def lane(self) -> ModelLane:
        return self.cost.model, self.cost.lane

    def slots(self) -> Iterator[Slot]:
        """Make a slot for every image."""
        cost = self.cost
        for index in range(cost.images):
            slot = Slot(self.job_id, index, cost.model, cost.shape, cost.rows, cost.steps)
            slot.lane, slot.strict = cost.lane, cost.strict
            yield slot


@dataclass(slots=True)
class Work:
    """Sums over a worker's life."""

    busy_s: float = 0.0
    calls: int = 0
    rows: int = 0


class SimWorker:
    """A worker's turn policy with seconds in place of networks, the loop's limit on claims, and its storing threads."""

    def __init__(self, costs: Costs, policy: Policy, clock: Callable[[], float]) -> None:
        self.order = ClaimOrder(costs.models)
        self.work = Work()
        self.told_at = -TELL_S  # when it last wrote step events
        self.ticket = 0  # of the newest event that was planned for it; older ones are void
        self._costs = costs
        self._clock = clock
        self._policy = TurnPolicy(clock, policy)
        self._jobs: dict[str, SimJob] = {}
        self._finish: Callable[[], int] | None = None
        self._threads = [0.0] * STORING_THREADS
        self._stores: list[tuple[float, int, SimJob]] = []

    def capacity(self, lane: ModelLane) -> int:
        """Return how many more images of this model and lane may be claimed."""
        storing = sum(job.cost.model == lane[0] for _, _, job in self._stores)
        return max(0, self._policy.capacity(*lane) - storing)

    def admit(self, job: SimJob) -> None:
        """Take a job."""
        self._jobs[job.job_id] = job
        self._policy.admit(job.job_id, job.cost.model, job.cost.images)

    def begin(self) -> float | None:
        """Begin the next turn and return its seconds, None if there is nothing to compute."""
        match self._policy.next():
            case Prepare(job_id):
                job = self._jobs[job_id]
                return self._turn(job.cost.encode_s, lambda: self._prepared(job))
            case Decode(slots):
                chunk = [self._jobs[slot.job_id] for slot in slots]
                return self._turn(len(chunk) * chunk[0].cost.decode_s, lambda: self._decoded(chunk))
            case CallUNet(batch):
                return self._call(batch)
        return None  # no job of a simulation has a deadline or previews

    def finish(self) -> int:
        """Let the turn that began last take effect; how many events it tells Redis."""
        finish, self._finish = self._finish, None
        return 0 if finish is None else finish()

    def ended(self) -> list[SimJob]:
        """Forget the jobs whose last image is stored by now, and return them."""
        ended = []
        while self._stores and self._stores[0][0] <= self._clock():
            job = heapq.heappop(self._stores)[2]
            job.unstored -= 1
            if not job.unstored:
                ended.append(self._jobs.pop(job.job_id))
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
        self._policy.advance(batch)
        return len({slot.job_id for slot in batch.slots})

    def _prepared(self, job: SimJob) -> int:
        self._policy.start(job.slots())
        return 0

    def _decoded(self, chunk: list[SimJob]) -> int:
        for job in chunk:
            stored = max(self._threads[0], self._clock()) + job.cost.store_s
            heapq.heapreplace(self._threads, stored)
            heapq.heappush(self._stores, (stored, job.number, job))
        return len(chunk)
