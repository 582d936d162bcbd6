"""Client of latentd: submit, wait, stream progress, pictures as PIL images; `Client`, and `AsyncClient` for asyncio."""

from latentd_client.asynchronous import AsyncClient
from latentd_client.errors import ClientError, JobCanceled, JobFailed, Refused, Unreachable
from latentd_client.records import Event, Image, Job, Problem
from latentd_client.synchronous import Client
from latentd_client.tasks import DryRun
from latentd_client.version import __version__

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "DryRun",
    "Event",
    "Image",
    "Job",
    "JobCanceled",
    "JobFailed",
    "Problem",
    "Refused",
    "Unreachable",
    "__version__",
]
