"""Every Redis key of ours. RQ keeps its own under rq:*; a job's RQ id is its id here."""

from __future__ import annotations

from datetime import datetime

from contract.base import Kind
from contract.job import Status
from contract.lanes import Lane

WAKES = 64
JOBS_KEY = "latentd:jobs"  # sorted set: job id → created_at in Unix milliseconds
DEPLOYMENT_KEY = "latentd:deployment"  # string: the id that this Redis shares with its storage
CARDS_KEY = "latentd:cards"  # hash: model id → card JSON
OUTBOX_KEY = "latentd:outbox"  # stream of (job, type): ended jobs with a webhook_url, type as their status
DEADLINES_KEY = "latentd:deadlines"  # sorted set: job id → deadline in Unix milliseconds
RETRIES_KEY = "latentd:retries"  # hash: why (marks.Returned) → jobs queued again, ever
SPENT_KEPT_S = 172_800
UNSERVED_KEY = "latentd:unserved"  # hash: kind:model:lane:status (unserved_field) → jobs ended without a worker, ever
ENDS_CHANNEL = "latentd:ends"  # publishes ids of jobs as they end
KEYS_KEY = "latentd:keys"  # hash: id of an API key → its JSON
CANCELING_KEY = "latentd:canceling"  # set of running job ids that a client wants ended


def job_key(job_id: str) -> str:
    """Hash: record, status, execution, started_at, ended_at, step, steps, numerics, result, error, cancel.

    `image:{k}` is the StoredImage k of a running job. `deaths` and `deaths_alone` count workers that died with the job
    since its last savepoint.
    """
    return f"latentd:job:{job_id}"


def events_key(job_id: str) -> str:
    """Stream of (type, data): its ids are the SSE ids."""
    return f"latentd:events:{job_id}"


def state_key(job_id: str) -> str:
    """Hash: what a later execution goes on from: execution, step, model (its hash), and `data` or its `path`."""
    return f"latentd:state:{job_id}"


def alone_key(worker: str) -> str:
    """String: id of the job that a worker runs while its others stand still."""
    return f"latentd:alone:{worker}"


def preview_key(job_id: str) -> str:
    """String, minutes of life: JSON {step, image: base64 WebP}."""
    return f"latentd:preview:{job_id}"


def gone_key(job_id: str) -> str:
    """String: the owner of an expired or purged job, for LATENTD_GONE_S; other keys get 404, not 410."""
    return f"latentd:gone:{job_id}"


def deliveries_key(job_id: str) -> str:
    """List of JSON: the log of the job's webhook, with the retention of the job."""
    return f"latentd:deliveries:{job_id}"


def keys_of(job_id: str) -> tuple[str, ...]:
    """Every key that is this job's alone, but for its tombstone."""
    return (job_key(job_id), events_key(job_id), preview_key(job_id), state_key(job_id), deliveries_key(job_id))


def list_key(owner: str) -> str:
    """Sorted set: job id → created_at in Unix milliseconds, of one API key's jobs; of all jobs for the empty owner."""
    return f"{JOBS_KEY}:{owner}" if owner else JOBS_KEY


def work_key(model: str, lane: Lane) -> str:
    """Hash: job id → its measurements.JobWork as text, of jobs that wait or run: the lane's backlog."""
    return f"latentd:work:{model}:{lane}"


def serving_key(model: str) -> str:
    """Sorted set: serving_member of each worker → Unix time until which it counts as alive."""
    return f"latentd:serving:{model}"


def serving_member(worker: str, device_kind: str) -> str:
    return f"{worker}@{device_kind}"


def wake_key(queue: str) -> str:
    """List: an entry for each job that came into an RQ queue lately, WAKES at most; idle workers wait for one. A hint:
    lost or left over, it costs a look at the queue or half a second, never a job."""
    return f"latentd:wake:{queue}"


def places_key(machine: str) -> str:
    """Hash: worker name → its place, of the workers that share a machine's process ids (workers.places)."""
    return f"latentd:places:{machine}"


def lease_key(what: str) -> str:
    """String, seconds of life: name of the worker that sweeps an RQ queue, or the deadlines."""
    return f"latentd:lease:{what}"


def step_times_key(model: str) -> str:
    """Hash: cell of the step-time table @ device kind → seconds; LATENT_FACTOR, WRITTEN_AT (contract.measurements)."""
    return f"latentd:steptimes:{model}"


def unserved_field(kind: Kind, model: str, lane: Lane, status: Status) -> str:
    """Field of UNSERVED_KEY; none of the four holds a colon."""
    return f"{kind}:{model}:{lane}:{status}"


def stored_field(index: int) -> str:
    """Field of the job's hash that describes image `index` before the job's end."""
    return f"image:{index}"


def spent_key(owner: str, moment: datetime) -> str:
    """String: predicted GPU-seconds of the jobs that a key was given on one day (UTC)."""
    return f"latentd:spent:{owner}:{moment:%Y-%m-%d}"


def queue_key(name: str) -> str:
    """RQ's list of waiting ids."""
    return f"rq:queue:{name}"
