"""What can go wrong, as one small tree."""

from __future__ import annotations

from latentd_client.records import Job, Problem


class ClientError(Exception):
    """Base of all that this client raises."""


class Unreachable(ClientError):
    """No answer in the time that the client waits, or none of latentd's; what it asked for may have been done."""


class Refused(ClientError):
    """The service's answer is a problem: `problem` names the field, its value and its bound."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class JobFailed(ClientError):
    """The job ended without images; `job.error` says why."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} failed" + (f": {job.error.detail}" if job.error is not None else ""))
        self.job = job


class JobCanceled(ClientError):
    """Somebody canceled the job."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} was canceled")
        self.job = job
