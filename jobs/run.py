"""A run of a job on this worker: its RQ execution and what became of its images so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from rq.executions import Execution
from rq.job import Job

from contract.base import Lane
from contract.events import Preview
from contract.job import ImageInfo, JobRecord, JobResult, Timings
from contract.request import JobRequest
from contract.stages import models_of
from jobs.stored_job import LaneQueue


@dataclass(slots=True, eq=False)
class JobRun:
    """One execution of one job, from its claim to its end."""

    job: Job
    queue: LaneQueue
    execution: Execution
    record: JobRecord
    request: JobRequest  # with the numerics that it runs with, where strict
    started_at: datetime
    canceled: bool  # asked for before the claim
    resumed: bool  # it ran before, elsewhere
    steps: int  # over all images, the unit of progress: as estimated until the engine has planned them
    isolated: bool  # workers died with it: the others stand still until it passes a savepoint
    shown: int  # the step that clients have seen; progress doesn't go back
    step: int = 0  # where the engine is
    saved_step: int = 0  # of the newest savepoint; written by its thread, as are the next three
    passed: bool = False  # whether this execution has written one
    saving: bool = False
    state_path: str = ""
    save_at: float = 0.0  # when the next savepoint is due
    deadline: float | None = None  # on the loop's clock
    closed: bool = False  # nothing of it is wanted any more; read by the storing threads
    step_ids: list[str] = field(default_factory=list)  # ids of the step events in the stream, oldest first
    previews: dict[int, Preview] = field(default_factory=dict)  # the newest of each image
    paths: list[str] = field(default_factory=list)
    images: dict[int, ImageInfo] = field(default_factory=dict)
    answered: int = 0  # images that the engine has finished
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    store_s: float = 0.0
    gpu_s: float = 0.0  # its rows' part of the UNet calls
    earlier_gpu_s: float = 0.0  # what executions before this one cost, encoding and decoding included

    @property
    def spent_s(self) -> float:
        """What the job has cost the accelerator, in the seconds that budgets count."""
        return self.earlier_gpu_s + self.encode_s + self.gpu_s + self.decode_s

    @property
    def job_id(self) -> str:
        return self.job.id

    @property
    def names(self) -> dict[str, str]:
        """What every log line about it carries."""
        return self.record.names

    @property
    def created_at(self) -> datetime:
        return self.record.created_at

    @property
    def model(self) -> str:
        return self.request.model

    @property
    def models(self) -> tuple[str, ...]:
        """Those that it needs in memory, the one whose queue it was in first."""
        return models_of(self.request)

    @property
    def lane(self) -> Lane:
        return self.request.priority

    @property
    def complete(self) -> bool:
        """Whether every image is stored."""
        return len(self.images) == self.request.num_images

    def result(self) -> JobResult:
        """The manifest that is published."""
        timings = Timings(
            queue_s=(self.started_at - self.created_at).total_seconds(),
            denoise_s=self.denoise_s,
            decode_s=self.decode_s,
            store_s=self.store_s,
        )
        images = tuple(self.images[index] for index in sorted(self.images))
        return JobResult(execution=self.execution.id, images=images, timings=timings)
