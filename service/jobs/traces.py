"""GET /v1/jobs/{id}/trace: where a job's time went, from its event stream and the notes that workers leave there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field
from redis.asyncio import Redis

from contract.events import STEP_EVENTS_KEPT, TRACE, Claimed, Kept, Returned, Shared
from contract.job import JobRecord, Progress, Status
from contract.redis_keys import events_key
from service.auth.access import Caller
from service.jobs.views import read_hash

Entry: TypeAlias = tuple[datetime, str, Mapping[str, str]]  # when, type, all fields


class TracedStep(BaseModel):
    """The UNet call that ended a step, and who shared it."""

    step: int = Field(description="Counted over all images of the job.")
    at: datetime
    rows: int = Field(description="Rows of the call that were the job's.")
    call_rows: int = Field(description="Rows of all jobs in the call.")
    jobs: int = Field(description="Jobs in the call, this one included.")
    call_s: float = Field(description="Seconds of the call.")


class Stages(BaseModel):
    """Seconds of the job in each stage, over all its runs; null for what hasn't begun."""

    queue_s: float | None = Field(description="From its creation until a worker first claimed it.")
    encode_s: float | None = Field(description="Encoding prompts and pictures.")
    denoise_s: float | None = Field(description="UNet calls that it took part in, others in them included.")
    decode_s: float | None = Field(description="Decoding its images.")
    store_s: float | None = Field(description="Writing its images to the storage.")


class Run(BaseModel):
    """One execution, on one worker."""

    worker: str
    started_at: datetime
    ended_at: datetime | None
    end: Literal["succeeded", "failed", "canceled", "handed_back", "worker_died"] | None = Field(
        description="handed_back: its worker stopped, or set the job apart; null while it runs."
    )
    first_step: int | None = Field(description="Of its steps that others hadn't shown; null before one.")
    last_step: int | None
    gpu_s: float = Field(description="Its part of the calls: its rows / all rows × seconds, summed.")


class Trace(BaseModel):
    """Where a job's time went, by the queue's clock; what a dead worker did after its last step isn't counted."""

    id: str
    status: Status
    created_at: datetime
    ended_at: datetime | None
    progress: Progress
    stages: Stages
    gpu_s: float = Field(description="Its part of all UNet calls, in seconds of the accelerator.")
    resumptions: int = Field(description="Runs after the first.")
    preemptions: int = Field(description="Runs that a living worker handed back.")
    worker_deaths: int = Field(description="Runs that ended with their worker.")
    runs: list[Run]
    steps: list[TracedStep] = Field(description=f"Those of the newest {STEP_EVENTS_KEPT} events.")


@dataclass(slots=True)
class _Run:
    """A run while the stream is read."""

    claimed: Claimed
    at: datetime
    ended_at: datetime | None = None
    end: str | None = None
    steps: list[TracedStep] = field(default_factory=list)
    shared: Shared | None = None
    kept: Kept | None = None

    def view(self) -> Run:
        steps = [each.step for each in self.steps]
        return Run.model_validate(
            {
                "worker": self.claimed.worker,
                "started_at": self.at,
                "ended_at": self.ended_at,
                "end": self.end,
                "first_step": min(steps, default=None),
                "last_step": max(steps, default=None),
                "gpu_s": self.shared.gpu_s if self.shared else 0.0,
            }
        )


async def read_trace(redis: Redis, caller: Caller, job_id: str) -> Trace:
    """Read a job's trace. Raises as `read_hash`."""
    values = await read_hash(redis, caller, job_id)
    found: Any = await redis.xrange(events_key(job_id))
    return trace_of(JobRecord.read(values["record"]), values, [_entry(*each) for each in found])


def _entry(event_id: str, fields: Mapping[str, str]) -> Entry:
    return datetime.fromtimestamp(int(event_id.partition("-")[0]) / 1000, UTC), fields["type"], fields


def trace_of(record: JobRecord, values: Mapping[str, str], entries: Iterable[Entry]) -> Trace:
    """Make the trace of a job from its hash and the entries of its stream, oldest first."""
    runs = _runs(entries)
    ends = [run.end for run in runs]
    return Trace.model_validate(
        {
            "id": record.id,
            "status": values["status"],
            "created_at": record.created_at,
            "ended_at": values.get("ended_at"),
            "progress": {"step": int(values.get("step", 0)), "steps": int(values["steps"])},
            "stages": _stages(record, runs),
            "gpu_s": round(sum(run.shared.gpu_s for run in runs if run.shared), 4),
            "resumptions": max(0, len(runs) - 1),
            "preemptions": ends.count("handed_back"),
            "worker_deaths": ends.count("worker_died"),
            "runs": [run.view() for run in runs],
            "steps": [step for run in runs for step in run.steps],
        }
    )


def _runs(entries: Iterable[Entry]) -> list[_Run]:
    runs: list[_Run] = []
    for at, kind, fields in entries:
        note = fields.get(TRACE)
        if note is not None and '"execution"' in note:
            runs.append(_Run(Claimed.read(note), at))
        elif runs:
            _note(runs[-1], at, kind, fields)
    return runs


def _note(run: _Run, at: datetime, kind: str, fields: Mapping[str, str]) -> None:
    note = fields.get(TRACE, "")
    if kind == "step":
        run.shared = Shared.read(note)
        run.steps += _steps(Progress.read(fields["data"]).step, at, run.shared)
    elif kind == "image":
        run.kept = Kept.read(note)
    elif run.end is None:  # a job may end while it waits, behind its last run
        run.end = Returned.read(note).why if kind == TRACE else kind
        run.ended_at = at


def _steps(newest: int, at: datetime, shared: Shared) -> Iterator[TracedStep]:
    """Those that were told together, oldest first."""
    for step, ago_ms, rows, call_rows, jobs, call_ms in shared.before:
        ago = timedelta(milliseconds=ago_ms)
        yield TracedStep(
            step=step, at=at - ago, rows=rows, call_rows=call_rows, jobs=jobs, call_s=round(call_ms / 1000, 4)
        )
    yield TracedStep(
        step=newest, at=at, rows=shared.rows, call_rows=shared.call_rows, jobs=shared.jobs, call_s=shared.call_s
    )


def _stages(record: JobRecord, runs: Sequence[_Run]) -> Stages:
    shared = [run.shared for run in runs if run.shared]
    kept = [run.kept for run in runs if run.kept]
    return Stages(
        queue_s=round((runs[0].at - record.created_at).total_seconds(), 3) if runs else None,
        encode_s=_sum(each.encode_s for each in shared),
        denoise_s=_sum(each.denoise_s for each in shared),
        decode_s=_sum(each.decode_s for each in kept),
        store_s=_sum(each.store_s for each in kept),
    )


def _sum(seconds: Iterable[float]) -> float | None:
    found = list(seconds)
    return round(sum(found), 4) if found else None
