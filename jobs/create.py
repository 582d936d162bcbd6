"""Jobs into the queue: one script writes our record and RQ's job, so that neither exists without the other.

It runs RQ's own unique-enqueue script inside ours. Ids are random and never used twice; what the script writes as the
holder of an Idempotency-Key decides every race of equal keys. The record is there before any worker can see the job.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import uuid
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import Any, Literal, TypeAlias

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError
from rq import Queue, Retry
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.scripts import UNIQUE_ENQUEUE_SCRIPT, _build_hset_args
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from contract.base import CONTRACT_VERSION, Kind, queue_name
from contract.common import SEEDS
from contract.job import JOB_FUNCTION, JobRecord
from contract.measurements import JobWork
from contract.redis_keys import (
    DEADLINES_KEY,
    JOBS_KEY,
    LAYOUT_KEY,
    SPENT_KEPT_S,
    WAKES,
    events_key,
    idempotency_key,
    job_key,
    list_key,
    queue_key,
    spent_key,
    wake_key,
    work_key,
)
from core.errors import Conflict, RateLimited
from core.settings import Settings

# Worker deaths never fail a job; deterministic errors end it at once without asking for a retry.
RETRIES = 1000
VARYING = ("created_at", "enqueued_at", "data", "origin", "description")  # of RQ's fields, those of each job

# Lua: the record of the job that holds an Idempotency-Key, false if none does; one whose record is gone holds nothing.
_FIND = f"""
local holder = {{key}} and redis.call('GET', {{key}})
local record = holder and redis.call('HGET', '{job_key("")}' .. holder, 'record')
"""

# One script, so that the limit and the budget are exact whatever gateways race; RQ's own script runs inside, last.
# KEYS: record, RQ's job, work of the lane, events, waiting list, spent by the owner today, the owner's jobs, who waits
# for work; the Idempotency-Key, where there is one.
# ARGV: id, record, created ms, work, steps, deadline in ms of Unix time or '', limit of the lane, GPU-seconds charged,
# budget of the day or '', values of RQ's fields that differ. RQ_FIELDS are those that don't.
_CREATE = f"""
local function enqueue(KEYS, ARGV) {UNIQUE_ENQUEUE_SCRIPT} end
if redis.call('EXISTS', KEYS[1]) == 1 then return {{'made', tostring(redis.call('LPOS', KEYS[5], ARGV[1]) or 0)}} end
{_FIND.format(key="KEYS[9]")}
if record then return {{'found', record}} end
local waiting = redis.call('LLEN', KEYS[5])
if waiting >= tonumber(ARGV[7]) then return {{'full', tostring(waiting)}} end
if ARGV[9] ~= '' then
  local spent = tonumber(redis.call('GET', KEYS[6]) or 0)
  if spent + ARGV[8] > tonumber(ARGV[9]) then return {{'spent', tostring(spent)}} end
  redis.call('INCRBYFLOAT', KEYS[6], ARGV[8])
  redis.call('EXPIRE', KEYS[6], {SPENT_KEPT_S})
end
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'status', 'queued', 'step', 0, 'steps', ARGV[5])
if KEYS[9] then redis.call('SET', KEYS[9], ARGV[1]) end
redis.call('SET', '{LAYOUT_KEY}', {CONTRACT_VERSION}, 'NX')
redis.call('ZADD', '{JOBS_KEY}', ARGV[3], ARGV[1])
if KEYS[7] ~= '{JOBS_KEY}' then redis.call('ZADD', KEYS[7], ARGV[3], ARGV[1]) end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
if ARGV[6] ~= '' then redis.call('ZADD', '{DEADLINES_KEY}', ARGV[6], ARGV[1]) end
redis.call('XADD', KEYS[4], '*', 'type', 'queued', 'data', '{{}}')
redis.call('SADD', '{Queue.redis_queues_keys}', KEYS[5])
enqueue({{KEYS[2], KEYS[5]}}, {{ARGV[1], 'R', -1, RQ_FIELDS}})
if redis.call('LLEN', KEYS[8]) < {WAKES} then redis.call('RPUSH', KEYS[8], '') end
return {{'made', tostring(waiting)}}
"""
_RQ_VALUES_AT = 10  # in ARGV

Answer: TypeAlias = Literal["made", "found", "full", "spent"]


@dataclass(frozen=True, slots=True)
class Created:
    """The job's record, and whether an earlier request with the same key had made it."""

    record: JobRecord
    replayed: bool
    position: int = 0  # of a new job: how many wait before it


class LaneFull(Exception):
    """LATENTD_QUEUE_LIMIT jobs wait in the lane; the caller says for how long."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} jobs wait")
        self.waiting = waiting


def new_id() -> str:
    """Draw an id that no job ever had: 122 random bits."""
    return uuid.uuid4().hex


def drawn_seed() -> int:
    """Draw the seed of a request that names none."""
    return secrets.randbelow(SEEDS)


def key_digest(key: str | None, kind: Kind, owner: str) -> str:
    """Name what an Idempotency-Key stands for within its scope (API key and endpoint); empty without one."""
    return "" if key is None else hashlib.sha256("\0".join((owner, kind, key)).encode()).hexdigest()


async def find(redis: AsyncRedis, digest: str) -> JobRecord | None:
    """Read the record of the job that holds an Idempotency-Key.

    Raises:
        RedisError: if Redis is away.
    """
    script = f"{_FIND.format(key='KEYS[1]')} return record"
    text: Any = await redis.eval(script, 1, idempotency_key(digest))
    return None if text is None else JobRecord.read(text)


def replay(record: JobRecord, body_hash: str, key: str) -> Created:
    """The job of an earlier request with the same key.

    Raises:
        Conflict: that request had another body.
    """
    if record.body_hash != body_hash:
        detail = f"Idempotency-Key {key!r} was used with another body, by job {record.id}"
        raise Conflict(detail, field="Idempotency-Key", value=key, bound="one body a key")
    return Created(record, replayed=True)


async def create(
    redis: AsyncRedis, settings: Settings, record: JobRecord, key: str | None, budget_s: float | None
) -> Created:
    """Write and enqueue the job in one step, or find the one that holds its Idempotency-Key.

    Raises:
        Conflict: the key's holder was made from another body.
        LaneFull: LATENTD_QUEUE_LIMIT jobs wait in the lane.
        RateLimited: the owner's GPU-seconds of the day don't suffice.
    """
    answer, detail = await _write(redis, settings, record, budget_s)
    if answer == "found":
        return replay(JobRecord.read(detail), record.body_hash, key or "")
    if answer == "full":
        raise LaneFull(int(detail))
    if answer == "spent":
        raise _over_budget(record, float(detail), budget_s or 0.0)
    return Created(record, replayed=False, position=int(detail))


def _over_budget(record: JobRecord, spent_s: float, budget_s: float) -> RateLimited:
    now = record.created_at
    tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    detail = (
        f"the job takes about {record.charged_s:.1f} GPU-seconds; key {record.owner} has spent {spent_s:.1f} "
        f"of {budget_s:g} today (UTC)"
    )
    wait_s = math.ceil((tomorrow - now).total_seconds())
    return RateLimited(detail, retry_after=wait_s, field="Authorization", value=record.owner)


@dataclass(frozen=True, slots=True)
class Script:
    """The script with the fields that RQ gives every job of ours, and the hash by which Redis knows it."""

    text: str
    sha: str


@cache
def _script(retention_s: int) -> Script:
    """Of jobs that are kept for `retention_s`; its ARGV ends with what differs, of `_rq_values`."""
    constant = [f"'{part}'" for pair in _constant_fields(retention_s).items() for part in pair]
    varying = [f"'{name}', ARGV[{place}]" for place, name in enumerate(VARYING, _RQ_VALUES_AT)]
    text = _CREATE.replace("RQ_FIELDS", ", ".join([*constant, *varying]))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _constant_fields(retention_s: int) -> dict[str, str]:
    """What RQ itself writes of a job, but for what `_rq_values` gives. Nothing is sent to the connection."""
    job = RQJob.create(
        JOB_FUNCTION,
        args=[],
        connection=Redis(),
        serializer=JSONSerializer,
        status=JobStatus.QUEUED,
        timeout=-1,
        result_ttl=retention_s,
        failure_ttl=retention_s,
        retry=Retry(max=RETRIES),
    )
    fields: list[Any] = _build_hset_args(job)  # type: ignore[no-untyped-call]
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return {name: _text(value) for name, value in found.items() if name not in VARYING}


def _text(value: Any) -> str:
    return str(value.value) if isinstance(value, JobStatus) else str(value)


def _rq_values(record: JobRecord) -> tuple[str | bytes, ...]:
    """Give the VARYING fields of this job: its call is (contract version, job id) as JSON, never a pickle."""
    request, made = record.request, utcformat(record.created_at)
    call = f'["{JOB_FUNCTION}", null, [{CONTRACT_VERSION}, "{record.id}"], {{}}]'
    origin = queue_name(request.model, request.priority)
    return made, made, zlib.compress(call.encode(), 1), origin, f"{request.kind} {record.id}"


async def _write(
    redis: AsyncRedis, settings: Settings, record: JobRecord, budget_s: float | None
) -> tuple[Answer, str]:
    script, keys = _script(settings.retention_s), _create_keys(record)
    limits = (settings.queue_limit, record.charged_s, "" if budget_s is None else budget_s)
    values = (*keys, *_create_values(record), *limits, *_rq_values(record))
    try:
        answer: Any = await redis.evalsha(script.sha, len(keys), *values)
    except NoScriptError:  # a new Redis, or one that was restarted
        answer = await redis.eval(script.text, len(keys), *values)
    return answer[0], answer[1]


def _create_keys(record: JobRecord) -> list[str]:
    request, queue = record.request, queue_name(record.request.model, record.request.priority)
    ours = (job_key(record.id), RQJob.key_for(record.id), work_key(request.model, request.priority))
    owner = (spent_key(record.owner, record.created_at), list_key(record.owner))
    unique = (idempotency_key(record.key_digest),) if record.key_digest else ()
    return [*ours, events_key(record.id), queue_key(queue), *owner, wake_key(queue), *unique]


def _create_values(record: JobRecord) -> list[str | int]:
    request = record.request
    created_ms = int(record.created_at.timestamp() * 1000)
    deadline = "" if request.deadline_ms is None else created_ms + request.deadline_ms
    return [record.id, record.to_json(), created_ms, str(JobWork.of(request)), request.run_steps, deadline]
