"""The discrete-event simulation: jobs arrive in lanes, workers claim them between calls, one Redis serves them all."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from contract.base import LANES
from contract.events import TELL_S
from workers.claim_policy import CLAIMS_A_ROUND, ModelLane
from workers.engine.scheduler import Policy
from workers.planner.costs import Costs
from workers.planner.mix import Arrival
from workers.planner.worker import SimJob, SimWorker

WAKE_S = 0.002  # from a job's arrival until an idle worker has it


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """What one Redis serves per second when it does nothing else; measured (docs/capacity.md)."""

    polls_per_s: float = 14_900.0
    jobs_per_s: float = 450.0  # enqueued, claimed and ended
    steps_per_s: float = 19_000.0  # step and image events written
    workers: float = 2_800.0  # whose hearts beat and who look for jobs twice a second when idle


@dataclass(slots=True)
class SimRedis:
    """A single server: commands queue for it. The `share` of the fleet that is simulated gets that share of it."""

    limits: RedisLimits
    workers: int  # that are simulated
    share: float
    free_at: float = 0.0
    used_s: float = 0.0

    @property
    def beating(self) -> float:
        """Share of its time that goes to workers as such, whatever they do."""
        return min(0.99, self.workers / self.share / self.limits.workers)

    def serve(self, now: float, polls: int, jobs: int, events: int) -> float:
        """Return the seconds that these commands wait for others."""
        limits = self.limits
        seconds = polls / limits.polls_per_s + jobs / limits.jobs_per_s + events / limits.steps_per_s
        wait = max(0.0, self.free_at - now)
        self.free_at = now + wait + seconds / self.share / (1.0 - self.beating)
        self.used_s += seconds / self.share
        return wait * self.share


@dataclass(frozen=True, slots=True)
class SimRun:
    """What happened: every job, and sums over the workers. `span_s` is from the first arrival to the last end."""

    jobs: tuple[SimJob, ...]
    workers: int
    span_s: float
    busy_s: float
    calls: int
    rows: int
    redis_load: float

    @property
    def busy_share(self) -> float:
        return self.busy_s / (self.span_s * self.workers) if self.span_s else 0.0

    @property
    def rows_per_call(self) -> float:
        return self.rows / self.calls if self.calls else 0.0


@dataclass(slots=True)
class Simulation:
    """Clock, lanes, workers and what they have planned."""

    costs: Costs
    redis: SimRedis
    now: float = 0.0
    lanes: dict[ModelLane, deque[SimJob]] = field(default_factory=dict)
    workers: list[SimWorker] = field(default_factory=list)
    idle: dict[SimWorker, None] = field(default_factory=dict)  # who rests longest comes first
    _events: list[tuple[float, int, int, SimWorker]] = field(default_factory=list)
    _count: int = 0

    def clock(self) -> float:
        return self.now

    def plan(self, worker: SimWorker, time: float) -> None:
        """Let the worker's next round be at `time`; one that was planned before is void."""
        self._count += 1
        worker.ticket = self._count
        heapq.heappush(self._events, (time, self._count, self._count, worker))

    def run(self, stream: Sequence[SimJob]) -> None:
        """Go on until every job has ended."""
        upcoming = deque(stream)
        while upcoming or self._events:
            if not self._events or (upcoming and upcoming[0].arrived <= self._events[0][0]):
                self.now = upcoming[0].arrived
                self.arrive(upcoming.popleft())
                continue
            time, _, ticket, worker = heapq.heappop(self._events)
            if ticket == worker.ticket:
                self.now = time
                self.round(worker)

    def arrive(self, job: SimJob) -> None:
        """Put a job into its lane; of the idle workers, who rested longest is woken."""
        self.lanes[job.lane].append(job)
        if not self.idle:
            return
        worker = next(iter(self.idle))
        del self.idle[worker]
        looks = self.now + WAKE_S
        self.plan(worker, looks if worker.next_stored is None else min(looks, worker.next_stored))

    def _told(self, worker: SimWorker, events: int) -> int:
        """Return how many events are written: of the rounds of TELL_S one tells the steps of all."""
        if not events or self.now - worker.told_at < TELL_S:
            return 0
        worker.told_at = self.now
        return events

    def round(self, worker: SimWorker) -> None:
        """End a turn: what it did, who ended, who is claimed, and the next turn."""
        events = self._told(worker, worker.finish())
        ended = worker.ended()
        for rank, job in enumerate(ended, start=1):
            job.ended = self.now + rank * self.costs.move_s
        claimed = self.claim(worker)
        turn_s = worker.begin()
        polls = claimed + (claimed < CLAIMS_A_ROUND)
        wait = self.redis.serve(self.now, polls, len(ended), events)
        if turn_s is not None:
            beside = self.costs.round_s + self.costs.move_s * (claimed + len(ended)) + wait
            self.plan(worker, self.now + beside + turn_s)
            return
        self.idle.setdefault(worker)
        if worker.next_stored is not None:
            self.plan(worker, worker.next_stored)

    def claim(self, worker: SimWorker) -> int:
        """Claim as `workers.loop.Loop` does: up to four jobs of lanes with room for an image, in the worker's order."""
        for count in range(CLAIMS_A_ROUND):
            waiting = [lane for lane, jobs in self.lanes.items() if jobs and worker.capacity(lane)]
            if not waiting:
                return count
            lane = worker.order.of(waiting)[0]
            job = self.lanes[lane].popleft()
            job.started = self.now
            worker.order.took(lane[0])
            worker.admit(job)
            self.idle.pop(worker, None)
        return CLAIMS_A_ROUND


def simulate(
    costs: Costs,
    stream: Sequence[Arrival],
    workers: int,
    policy: Policy,
    *,
    limits: RedisLimits | None = None,
    share: float = 1.0,
) -> SimRun:
    """Let `workers` workers serve a stream of jobs, all of them, from empty queues.

    `share` is the simulated part of the fleet; the commands of the rest load Redis alike.

    Raises:
        ValueError: there is no worker.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, at least 1")
    simulation = Simulation(costs, SimRedis(limits or RedisLimits(), workers, share))
    simulation.lanes = {(model, lane): deque() for lane in LANES for model in costs.models}
    simulation.workers = [SimWorker(costs, policy, simulation.clock) for _ in range(workers)]
    simulation.idle = dict.fromkeys(simulation.workers)
    jobs = [SimJob(number, costs.jobs[one.index], one.time) for number, one in enumerate(stream)]
    simulation.run(jobs)
    return _summary(simulation, jobs)


def _summary(simulation: Simulation, jobs: Sequence[SimJob]) -> SimRun:
    span = max(job.ended for job in jobs) - jobs[0].arrived if jobs else 0.0
    work = [worker.work for worker in simulation.workers]
    return SimRun(
        jobs=tuple(jobs),
        workers=len(work),
        span_s=span,
        busy_s=sum(one.busy_s for one in work),
        calls=sum(one.calls for one in work),
        rows=sum(one.rows for one in work),
        redis_load=min(1.0, simulation.redis.used_s / span + simulation.redis.beating) if span else 0.0,
    )
