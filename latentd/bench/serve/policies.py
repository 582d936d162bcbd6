"""Ways to batch requests on one engine, as policies of the bench: by steps, as the service does, and by requests.

Each decides when a job that has come is admitted; the engine, its networks and its loop are the same for all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from contract.request import JobRequest
from latentd.bench.serve.load import Side, Timed
from latentd.bench.step_times import admission
from workers.engine.engine import Engine
from workers.engine.messages import Aborted, Finished

WINDOW_S = 0.05  # that request-level batching waits for more of the same
NAP_S = 0.005  # longest sleep of an idle engine

Waiting: TypeAlias = deque[tuple[int, Timed]]


class Policy(Protocol):
    """Takes out of `waiting`, oldest first, what the engine is to begin now; `now` is on the clock of the arrivals."""

    def take(self, waiting: Waiting, engine: Engine, now: float) -> list[tuple[int, Timed]]: ...


@dataclass(frozen=True, slots=True)
class BySteps:
    """Whoever comes joins at the next step, while the engine has room."""

    def take(self, waiting: Waiting, engine: Engine, now: float) -> list[tuple[int, Timed]]:  # noqa: ARG002
        room = engine.capacity(waiting[0][1].request.model) if waiting else 0
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]


@dataclass(frozen=True, slots=True)
class ByRequests:
    """Up to `most` requests that agree in all that `key` tells run together from their first step to their last; the
    first of them waits up to `window_s` for the others. Nobody joins a batch that runs."""

    most: int
    window_s: float
    key: Callable[[JobRequest], object]

    def take(self, waiting: Waiting, engine: Engine, now: float) -> list[tuple[int, Timed]]:
        if engine.busy or not waiting:
            return []
        first = waiting[0][1]
        batch = [one for one in waiting if self.key(one[1].request) == self.key(first.request)][: self.most]
        if len(batch) < self.most and now < first.at + self.window_s:
            return []
        for one in batch:
            waiting.remove(one)
        return batch


def alike(request: JobRequest) -> object:
    """What one call of a pipeline has one of: the task, the number of steps, the size."""
    return request.kind, request.steps, request.width, request.height


def anything(_request: JobRequest) -> object:
    """Nothing has to agree: our engine mixes tasks and steps in one call whoever chooses the batch."""
    return None


def sides(engine: Engine, max_rows: int) -> list[Side]:
    """The service's way, and three that others have; a guided picture is two rows."""
    most = max(1, max_rows // 2)
    policies: Mapping[str, Policy] = {
        "step batching": BySteps(),
        f"request batching, ≤ {most}, alike": ByRequests(most, WINDOW_S, alike),
        f"request batching, ≤ {most}, mixed": ByRequests(most, WINDOW_S, anything),
        "one at a time": ByRequests(1, 0.0, alike),
    }
    return [
        Side(name, lambda jobs, policy=policy: play(engine, policy, jobs), batches=name != "one at a time")  # type: ignore[misc]
        for name, policy in policies.items()
    ]


@dataclass(slots=True)
class _Run:
    """Jobs under way: who came when, and what each has waited."""

    engine: Engine
    jobs: Sequence[Timed]
    began: float = field(default_factory=time.perf_counter)
    waited: dict[int, float] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)  # images that aren't finished, by job
    came: int = 0

    @property
    def now(self) -> float:
        return time.perf_counter() - self.began

    def arrived(self, waiting: Waiting) -> None:
        while self.came < len(self.jobs) and self.jobs[self.came].at <= self.now:
            waiting.append((self.came, self.jobs[self.came]))
            self.came += 1

    def admit(self, number: int, job: Timed) -> None:
        self.left[number] = job.request.num_images
        self.engine.admit(admission(str(number), job.request))

    def turn(self) -> None:
        for outcome in self.engine.turn():
            if isinstance(outcome, Aborted):
                raise outcome.error
            if isinstance(outcome, Finished):
                self._finished(int(outcome.job_id))

    def _finished(self, number: int) -> None:
        self.left[number] -= 1
        if not self.left[number]:
            self.waited[number] = self.now - self.jobs[number].at

    def rest(self) -> None:
        """Sleep until the next job comes, or a window may be over."""
        until = self.jobs[self.came].at if self.came < len(self.jobs) else self.now
        time.sleep(min(NAP_S, max(0.001, until - self.now)))


def play(engine: Engine, policy: Policy, jobs: Sequence[Timed]) -> list[float]:
    """Serve the jobs as the policy says; an engine that was idle is idle again.

    Raises:
        LatentdError: a job fails.
    """
    run, waiting = _Run(engine, jobs), Waiting()
    while len(run.waited) < len(jobs):
        run.arrived(waiting)
        for number, job in policy.take(waiting, engine, run.now):
            run.admit(number, job)
        if engine.busy:
            run.turn()
        else:
            run.rest()
    return [run.waited[number] for number in range(len(jobs))]
