"""The soak itself: feed jobs, kill workers and Redis, wait for the end, and run unbroken twins of what was broken."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contract.job import TERMINAL
from contract.redis_keys import job_key
from tests.soak.fleet import POLL_S, Fleet, Member
from tests.soak.plan import Plan

MEASURED_STEPS = 200
MOST_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9; `held` are the jobs that the worker was running."""

    at: float  # Unix time
    worker: str
    held: frozenset[str]


@dataclass(slots=True)
class Story:
    """What happened, for the findings."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)  # id → fields as posted
    kills: list[Kill] = field(default_factory=list)
    redis_kills: list[tuple[float, int]] = field(default_factory=list)  # Unix time, jobs running then
    twins: dict[str, str] = field(default_factory=dict)  # broken job → unbroken one
    measured: list[str] = field(default_factory=list)  # jobs that showed how long a step takes
    steps: tuple[int, int] = (1, 1)  # bounds for the jobs, of `Plan.length_s`
    began: float = 0.0
    ended: float = 0.0


class Driver:
    """Runs one plan on a fleet that serves."""

    def __init__(self, plan: Plan, fleet: Fleet, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._fleet = fleet
        self._tell = tell
        self._random = random.Random(plan.seed)
        self._redis: Redis = fleet.server.connect()
        self._open: set[str] = set()
        self._redis_kills = list(plan.redis_kills_at)
        self.story = Story()

    def measure(self) -> None:
        """How many steps a job of the wished length has where as many others run; the first jobs only warm up."""
        self._seconds_of("warming", MEASURED_STEPS)
        step_s = self._seconds_of("measured", MEASURED_STEPS) / MEASURED_STEPS
        low, high = (min(MOST_STEPS, max(2, round(length / step_s))) for length in self._plan.length_s)
        self.story.steps = (low, high)
        self._tell(f"a step of {self._plan.outstanding} jobs at once takes {step_s:.3f} s: {low} to {high} steps a job")

    def _seconds_of(self, name: str, steps: int) -> float:
        """How long as many jobs as may run at a time take together."""
        began, ends = time.monotonic(), time.monotonic() + self._plan.limit_s
        made = [
            self._fleet.submit(f"{name}-{index}", self._fields(index) | {"steps": steps}, ends)
            for index in range(self._plan.outstanding)
        ]
        self.story.measured += made
        self._open |= set(made)
        self._until_ended(ends)
        return time.monotonic() - began

    def _until_ended(self, ends: float) -> None:
        while self._open:
            assert time.monotonic() < ends, "jobs that nothing disturbs did not end"
            self._fleet.tend()
            self._look()
            time.sleep(POLL_S)

    def run(self) -> Story:
        """Until every job has ended and enough was killed; a limit turns a stuck job into a failure."""
        story, plan = self.story, self._plan
        story.began = time.time()
        ends, next_kill = time.monotonic() + plan.limit_s, time.monotonic() + plan.every_s[0]
        while self._wants_more() or self._open:
            assert time.monotonic() < ends, f"{len(self._open)} jobs did not end: {sorted(self._open)[:5]}"
            self._fleet.tend()
            self._feed(ends)
            enough = not plan.endless and len(story.kills) >= plan.kills
            if not enough and time.monotonic() >= next_kill and self._kill():
                next_kill = time.monotonic() + self._random.uniform(*plan.every_s)
            self._kill_redis()
            self._look()
            time.sleep(POLL_S)
        story.ended = time.time()
        return story

    def _wants_more(self) -> bool:
        """Whether jobs, or kills among jobs, are lacking: a quick machine ends many between two kills."""
        return len(self.story.jobs) < self._plan.jobs or len(self.story.kills) < self._plan.kills

    def _feed(self, ends: float) -> None:
        while self._wants_more() and len(self._open) < self._plan.outstanding:
            fields = self._fields(len(self.story.jobs))
            job_id = self._fleet.submit(f"soak-{len(self.story.jobs)}", fields, ends)
            self.story.jobs[job_id] = fields
            self._open.add(job_id)

    def _fields(self, index: int) -> dict[str, Any]:
        """Fields of a job; samplers in turn."""
        return {
            "prompt": "red heart",
            "seed": index,
            "steps": self._random.randint(*self.story.steps),
            "sampler": ("ddim", "plms", "euler", "dpmpp_2m", "ddpm")[index % 5],
            "determinism": "strict" if index % self._plan.strict_every == 0 else "fast",
            "guidance_scale": 1.0,
            "width": 64,
            "height": 64,
        }

    def _look(self) -> None:
        """Which jobs have ended."""
        try:
            self._open -= {job_id for job_id, state in self._states().items() if state[0] in TERMINAL}
        except RedisError:
            return  # killed a moment ago

    def _states(self) -> dict[str, tuple[str, str]]:
        """Status and worker of every open job."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in self._open:
                pipe.hmget(job_key(job_id), ["status", "worker"])
            found = pipe.execute()
        return {
            job_id: ((status or b"").decode(), (worker or b"").decode())
            for job_id, (status, worker) in zip(self._open, found, strict=True)
        }

    def _kill(self) -> bool:
        """Kill a ready worker, rather one that runs something, unless two are starting; whether one was killed."""
        ready = [member for member in self._fleet.members if member.name]
        if len(ready) < self._plan.workers - 1 or not self._open:
            return False
        running = self._running()
        busy = [member for member in ready if running.get(member.name)]
        self._kill_one(self._random.choice(busy or ready), running)
        return True

    def _running(self) -> dict[str, set[str]]:
        running: dict[str, set[str]] = {}
        for job_id, (status, worker) in self._states().items():
            if status == "running":
                running.setdefault(worker, set()).add(job_id)
        return running

    def _kill_one(self, member: Member, running: dict[str, set[str]]) -> None:
        held = frozenset(running.get(member.name, ()))
        self._fleet.kill(member)
        self.story.kills.append(Kill(time.time(), member.name, held))
        done = len(self.story.jobs) - len(self._open)
        self._tell(f"kill {len(self.story.kills)}: worker {member.name}, running {len(held)} jobs; {done} jobs ended")

    def _kill_redis(self) -> None:
        ended = len(self.story.jobs) - len(self._open)
        if not self._redis_kills or ended < self._redis_kills[0]:
            return
        running = sum(len(jobs) for jobs in self._running().values())
        if not running:
            return
        self._redis_kills.pop(0)
        self.story.redis_kills.append((time.time(), running))
        self._fleet.server.kill()
        time.sleep(1.0)
        self._fleet.server.start()
        self._tell(f"Redis killed with {running} jobs running, started again after 1 s; {ended} jobs ended")

    def run_twins(self, broken: list[str]) -> None:
        """Run the same requests again, without any kill."""
        ends = time.monotonic() + self._plan.limit_s
        for job_id in broken:
            twin = self._fleet.submit(f"twin-{job_id}", self.story.jobs[job_id], ends)
            self.story.twins[job_id] = twin
            self._open.add(twin)
        self._until_ended(ends)
