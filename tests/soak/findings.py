"""What a soak showed: read from Redis, the storage and the workers' logs, after the end."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from redis import Redis
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from contract.job import TERMINAL, JobResult
from contract.request import JobRequest
from core.storage import Store
from tests.enqueue import digests, event_types, job_state, make_request, open_queue
from tests.soak.drive import Kill, Story
from tests.soak.fleet import moment, read_log
from tests.soak.plan import Plan

RESUMED_WITHIN_S = 30.0
SAVED_WITHIN_S = 5.0  # of its start a job has a savepoint: due after half a second, again after two, if Redis was away


@dataclass(frozen=True, slots=True)
class Resumption:
    """A job's return after a worker was killed."""

    job_id: str
    step: int
    ran_s: float  # from the beginning of the execution that died until the kill
    seconds: float | None  # since the kill; None if it ended or its next worker died before it began again


@dataclass(frozen=True, slots=True)
class Findings:
    """Counts that must hold, and times."""

    jobs: int
    statuses: Counter[str]
    results: int  # jobs with exactly one terminal event, one result and one object that it names
    extra_objects: int  # of executions that died between storing and publishing, for the sweep
    registered: tuple[int, int]  # finished and failed jobs as RQ counts them
    kills: int
    kills_of_busy: int
    redis_kills: int
    resumptions: list[Resumption]
    measured: int
    twins: int
    twins_equal: int
    starts: list[float]
    lengths: list[float]  # seconds from start to end of jobs that were never broken
    seconds: float

    @property
    def from_savepoints(self) -> int:
        return sum(one.step > 0 for one in self.resumptions)

    @property
    def unsaved(self) -> list[Resumption]:
        """Those that began anew, though what died had time to save."""
        return [
            one for one in self.resumptions if one.seconds is not None and one.step == 0 and one.ran_s > SAVED_WITHIN_S
        ]

    @property
    def resumed_s(self) -> list[float]:
        return sorted(one.seconds for one in self.resumptions if one.seconds is not None)

    def complaints(self, plan: Plan) -> list[str]:
        """What doesn't hold of what must."""
        slow = [one for one in self.resumed_s if one > RESUMED_WITHIN_S]
        checks = {
            f"{self.statuses} instead of {self.jobs} succeeded": self.statuses == {"succeeded": self.jobs},
            f"{self.results} results of exactly one": self.results == self.jobs,
            f"RQ counts {self.registered} finished and failed": self.registered
            == (self.jobs + self.twins + self.measured, 0),
            f"{self.kills} kills, {self.kills_of_busy} of busy workers": self.kills_of_busy >= plan.kills * 4 // 5,
            f"{self.redis_kills} kills of Redis": self.redis_kills == plan.redis_kills,
            f"{len(slow)} resumptions after more than {RESUMED_WITHIN_S:.0f} s: {slow}": not slow,
            f"{self.twins_equal} of {self.twins} strict results equal": self.twins_equal == self.twins >= plan.twins,
            f"begun anew after more than {SAVED_WITHIN_S:.0f} s of work: {self.unsaved}": not self.unsaved,
            f"only {self.from_savepoints} resumptions from a savepoint": self.from_savepoints >= plan.kills,
        }
        return [complaint for complaint, holds in checks.items() if not holds]


def resumptions(kills: Sequence[Kill], logs: Iterable[Path], ended: dict[str, float]) -> list[Resumption]:
    """What became of every job at every kill of its worker."""
    began = _beginnings(logs)
    found = []
    for kill in kills:
        for job_id in kill.held:
            begun = began.get(job_id, [])
            later = [one for one in begun if one[0] > kill.at]
            again = [other.at for other in kills if job_id in other.held and other.at > kill.at]
            ran_s = kill.at - max((at for at, _step in begun if at <= kill.at), default=kill.at)
            if later and (not again or later[0][0] < again[0]):
                found.append(Resumption(job_id, later[0][1], ran_s, later[0][0] - kill.at))
            elif job_id not in ended or ended[job_id] > kill.at + 1:
                found.append(Resumption(job_id, 0, ran_s, None))
    return found


def _beginnings(logs: Iterable[Path]) -> dict[str, list[tuple[float, int]]]:
    """When every execution of a job began to compute, and at which step, in their order."""
    began: dict[str, list[tuple[float, int]]] = {}
    for log in logs:
        for line in read_log(log):
            if line.get("event") == "job resumed" or (line.get("event") == "job started" and not line["resumed"]):
                began.setdefault(line["job_id"], []).append((moment(line), line.get("step", 0)))
    return {job_id: sorted(one) for job_id, one in began.items()}


def broken_strict_jobs(story: Story, logs: Iterable[Path]) -> list[str]:
    """Strict jobs that went on from a savepoint."""
    steps: dict[str, int] = {}
    for log in logs:
        for line in read_log(log):
            if line.get("event") == "job resumed":
                steps[line["job_id"]] = max(line["step"], steps.get(line["job_id"], 0))
    return [job for job, fields in story.jobs.items() if fields["determinism"] == "strict" and steps.get(job, 0) > 0]


def find(story: Story, redis: Redis, store: Store, logs: list[Path], starts: list[float]) -> Findings:
    """Read everything."""
    states = {job_id: job_state(redis, job_id) for job_id in story.jobs}
    ended = {job: datetime.fromisoformat(state["ended_at"]).timestamp() for job, state in states.items()}
    objects = Counter(str(entry["path"]) for page in store.list("images") for entry in page)
    named = [path for job_id, state in states.items() for path in _paths(job_id, state)]
    others = [*story.twins.values(), *story.measured]
    undisturbed = [path for job_id in others for path in _paths(job_id, job_state(redis, job_id))]
    queue = open_queue(redis, _request())
    broken = {job_id for kill in story.kills for job_id in kill.held}
    lengths = [_length(state) for job_id, state in states.items() if job_id not in broken]
    return Findings(
        jobs=len(states),
        statuses=Counter(state["status"] for state in states.values()),
        results=sum(_is_one(redis, job_id, states[job_id], objects) for job_id in states),
        extra_objects=sum(objects.values()) - len(named) - len(undisturbed),
        registered=(FinishedJobRegistry(queue=queue).count, FailedJobRegistry(queue=queue).count),
        kills=len(story.kills),
        kills_of_busy=sum(bool(kill.held) for kill in story.kills),
        redis_kills=len(story.redis_kills),
        resumptions=resumptions(story.kills, logs, ended),
        measured=len(story.measured),
        twins=len(story.twins),
        twins_equal=sum(digests(redis, job) == digests(redis, twin) for job, twin in story.twins.items()),
        starts=starts,
        lengths=lengths,
        seconds=story.ended - story.began,
    )


def _request() -> JobRequest:
    return make_request()


def _paths(job_id: str, state: dict[str, str]) -> list[str]:
    result = JobResult.model_validate_json(state["result"])
    return [f"images/{job_id}/{result.execution}/{k}.png" for k in range(len(result.images))]


def _is_one(redis: Redis, job_id: str, state: dict[str, str], objects: Counter[str]) -> bool:
    types = event_types(redis, job_id)
    terminal = [kind for kind in types if kind in TERMINAL]
    stored = all(objects[path] == 1 for path in _paths(job_id, state))
    return terminal == ["succeeded"] and types[-1] == "succeeded" and types.count("started") == 1 and stored


def _length(state: dict[str, str]) -> float:
    started, ended = (datetime.fromisoformat(state[name]) for name in ("started_at", "ended_at"))
    return (ended - started).total_seconds()


def spread(values: Sequence[float]) -> str:
    """Least, median, 95th percentile and most."""
    if not values:
        return "none"
    ordered: list[Any] = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{ordered[0]:.1f} / {statistics.median(ordered):.1f} / {p95:.1f} / {ordered[-1]:.1f}"
