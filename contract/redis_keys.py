"""Every Redis key of ours. RQ keeps its own under rq:*; a job's RQ id is its id here."""

from __future__ import annotations

from datetime import datetime

from contract.base import Lane

WAKES = 64
JOBS_KEY = "latentd:jobs"  # sorted set: job id → created_at in Unix milliseconds
NOTHING_KEY = "latentd:nothing"  # never there: what deletes it is a write that needs no memory
LAYOUT_KEY = "latentd:layout"  # string: contract version of the newest release that has used this Redis
DEPLOYMENT_KEY = "latentd:deployment"  # string: the id that this Redis shares with its storage
PROPOSED_KEY = "latentd:deployment:new"  # string: the id that the storage is to share
SEEN_KEY = "latentd:deployment:seen"  # string, 30 s of life: another each time that a process sees the storage
SWEEPS_KEY = "latentd:deployment:sweeps"  # string: sweeps of the storage, ever
CARDS_KEY = "latentd:cards"  # hash: model id → card JSON
LORAS_KEY = "latentd:loras"  # hash: LoRA id → card JSON
CONTROLNETS_KEY = "latentd:controlnets"  # hash: ControlNet id → card JSON
EMBEDDINGS_KEY = "latentd:embeddings"  # hash: embedding name → card JSON
OUTBOX_KEY = "latentd:outbox"  # stream of (job, type): ended jobs with a webhook_url, type as their status
DEADLINES_KEY = "latentd:deadlines"  # sorted set: job id → deadline in Unix milliseconds
RETRIES_KEY = "latentd:retries"  # hash: why (events.Returned) → jobs queued again, ever
SPENT_KEPT_S = 172_800
UNSERVED_KEY = "latentd:unserved"  # hash: kind:model:lane:status (unserved_field) → jobs ended without a worker, ever
ENDED_CHANNEL = "latentd:ends"  # publishes ids of jobs as they end
KEYS_KEY = "latentd:keys"  # hash: id of an API key → its JSON
SECRET_KEY = "latentd:secret"  # string: signs image URLs; shared by all gateways, made by the first that needs it
DUE_KEY = "latentd:webhooks:due"  # sorted set: JSON of a message that is tried again → when, in Unix seconds
CANCELING_KEY = "latentd:canceling"  # set of running job ids that a client wants ended


def job_key(job_id: str) -> str:
    """Hash: record, status, execution, worker, started_at, ended_at, step, steps, numerics, result, error, cancel.

    `image:{k}` is the StoredImage k of a running job. `deaths` and `deaths_alone` count workers that died with the job
    since its last savepoint.
    """
    return f"latentd:job:{job_id}"


def events_key(job_id: str) -> str:
    """Stream of (type, data): its ids are the SSE ids."""
    return f"latentd:events:{job_id}"


def state_key(job_id: str) -> str:
    """Hash: what a later execution goes on from: execution, step, model (hash, or hashes), and `data` or its `path`."""
    return f"latentd:state:{job_id}"


def isolated_key(worker: str) -> str:
    """String: id of the job that a worker runs while its others stand still."""
    return f"latentd:alone:{worker}"


def refused_key(worker: str) -> str:
    """Sorted set, lives as long as the worker beats: ids of jobs that it left to others → when, in Unix seconds."""
    return f"latentd:refused:{worker}"


def preview_key(job_id: str) -> str:
    """String, minutes of life: `Previews`, the newest of each image."""
    return f"latentd:preview:{job_id}"


def gone_key(job_id: str) -> str:
    """String: the owner of an expired or purged job, for LATENTD_GONE_S; other keys get 404, not 410."""
    return f"latentd:gone:{job_id}"


def idempotency_key(digest: str) -> str:
    """String: id of the job that an Idempotency-Key made, with the life of the job; `digest` of key and scope."""
    return f"latentd:idempotency:{digest}"


def deliveries_key(job_id: str) -> str:
    """List of JSON: the log of the job's webhook, with the retention of the job."""
    return f"latentd:deliveries:{job_id}"


def keys_of(job_id: str) -> tuple[str, ...]:
    """Every key that is only this job's, but for its tombstone."""
    return (job_key(job_id), events_key(job_id), preview_key(job_id), state_key(job_id), deliveries_key(job_id))


def list_key(owner: str) -> str:
    """Sorted set: job id → created_at in Unix milliseconds, of one API key's jobs; of all jobs for the empty owner."""
    return f"{JOBS_KEY}:{owner}" if owner else JOBS_KEY


def attended_key(owner: str) -> str:
    """Sorted set: job id → created_at in Unix milliseconds, of one API key's jobs (empty: where keys are off) that a
    call of another API waits for; lives a little longer than such a call may take."""
    return f"latentd:attended:{owner}"


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


def processes_key(machine: str) -> str:
    """Hash: worker name → its process identity, of the workers that share a machine's process ids."""
    return f"latentd:places:{machine}"


def lease_key(what: str) -> str:
    """String, seconds of life: name of the worker that sweeps an RQ queue, or the deadlines."""
    return f"latentd:lease:{what}"


def step_times_key(model: str) -> str:
    """Hash: cell of the step-time table @ device kind → seconds; LATENT_FACTOR, WRITTEN_AT (contract.measurements)."""
    return f"latentd:steptimes:{model}"


def cells_written_key(model: str) -> str:
    """Sorted set: cell of the step-time table @ device kind → when it was last written, in Unix seconds."""
    return f"{step_times_key(model)}:written"


def unserved_field(kind: str, model: str, lane: Lane, status: str) -> str:
    """Field of UNSERVED_KEY; none of the four holds a colon."""
    return f"{kind}:{model}:{lane}:{status}"


def stored_field(index: int) -> str:
    """Field of the job's hash that describes image `index` before the job's end."""
    return f"image:{index}"


def spent_key(owner: str, moment: datetime) -> str:
    """String: GPU-seconds of a key's jobs of one day (UTC): predicted ones, measured where they have ended."""
    return f"latentd:spent:{owner}:{moment:%Y-%m-%d}"


def rate_key(key_id: str) -> str:
    """String: when an API key's allowance of requests is whole again, in Unix seconds."""
    return f"latentd:rate:{key_id}"


def sweeping_key(what: str) -> str:
    """String, an interval of life: some worker has swept this in the interval, or does."""
    return f"latentd:sweeping:{what}"


def queue_key(name: str) -> str:
    """RQ's list of waiting ids."""
    return f"rq:queue:{name}"


def queued_job_key(job_id: str) -> str:
    """RQ's hash of a job: `enqueued_at` is when it last came into its queue."""
    return f"rq:job:{job_id}"


def started_key(name: str) -> str:
    """RQ's sorted set of a queue's executions: `job id:execution id` → Unix time until which it counts as alive."""
    return f"rq:wip:{name}"
