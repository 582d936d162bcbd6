"""Jobs as clients see them, read from the keys that gateway and worker write."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

import structlog
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from contract.base import Kind, Lane, newer_told, queue_name
from contract.common import Numerics
from contract.job import ImageInfo, Job, JobHead, JobRecord, JobResult, Progress, Status, Timings
from contract.redis_keys import gone_key, job_key, list_key, queue_key
from contract.request import JobRequest
from core.errors import Gone, InvalidRequest, NewerRelease, NotFound, Problem
from service.admission.backlogs import Backlogs
from service.admission.estimates import Backlog, queued_eta, running_eta
from service.auth.access import Caller, check_sees
from service.auth.signing import PLAIN, ImageUrls
from service.http.problems import shown

PAGE = 100  # ids read at once while a filtered list looks for matches
MOST_PAGES = 20  # of ids that one call looks through: what it hasn't found by then, the next page goes on with

Hash: TypeAlias = Mapping[str, str]

log = structlog.get_logger("service")


class ReadJob(NamedTuple):
    """A job's hash, and what it holds for clients."""

    values: Hash
    record: JobRecord
    request: JobRequest
    result: JobResult | None
    error: Problem | None


class JobPage(BaseModel):
    """Jobs, newest first; `next_cursor` is null on the last page."""

    items: list[Job]
    next_cursor: str | None = None


class ListQuery(BaseModel):
    """Filters of the job list."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = Field(default=None, description="Jobs in this state only.")
    kind: Kind | None = Field(default=None, description="Jobs of this kind only.")
    q: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Jobs whose prompt or negative prompt holds this text only; case is ignored.",
    )
    limit: int = Field(default=20, ge=1, le=100, description="Most jobs in the answer.")
    cursor: str | None = Field(default=None, max_length=200, description="`next_cursor` of the page before.")


async def read_hash(redis: Redis, caller: Caller, job_id: str) -> Hash:
    """Read a job's hash.

    Raises:
        Gone: it expired or was purged.
        NotFound: there was never one, its 410 expired, too, or it isn't the caller's.
    """
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(job_key(job_id))
        pipe.get(gone_key(job_id))
        pipe.zscore(list_key(caller.listed), job_id)
        found, tombstone, listed = await pipe.execute()
    if "record" in found:
        values: Hash = found
        check_sees(caller, JobHead.read(values["record"]).owner, job_id)
        return values
    if listed is not None or (tombstone is not None and caller.sees(tombstone)):  # listed without a record: expired
        raise Gone(f"job {shown(job_id)} expired or was purged", field="id", value=job_id)
    raise NotFound(f"no job {shown(job_id)!r}", field="id", value=job_id)


async def read_job(redis: Redis, backlogs: Backlogs, caller: Caller, job_id: str) -> Job:
    """Read one job.

    Raises:
        Gone, NotFound: as `read_hash`.
        NewerRelease: as `Recorded.read`.
    """
    return (await _views(redis, backlogs, caller.urls, [_read(await read_hash(redis, caller, job_id))]))[0]


def _read(values: Hash) -> ReadJob:
    record = JobRecord.read(values["record"])
    request = record.request
    if "numerics" in values:
        request = request.model_copy(update={"numerics": Numerics.read(values["numerics"])})
    result = JobResult.read(values["result"]) if "result" in values else None
    with newer_told():
        error = Problem.model_validate_json(values["error"], extra="ignore") if "error" in values else None
    return ReadJob(values, record, request, result, error)


async def _views(redis: Redis, backlogs: Backlogs, urls: ImageUrls, jobs: Sequence[ReadJob]) -> list[Job]:
    """Make jobs with positions and times to the end; the lanes' backlogs are read once."""
    alive = [job for job in jobs if job.values["status"] in ("queued", "running")]
    lanes = {(job.request.model, job.request.priority) for job in alive}
    found = {lane: await backlogs.of(*lane) for lane in lanes}
    positions = await _positions(redis, [job.record for job in alive if job.values["status"] == "queued"])
    return [_view(job, found, positions, urls) for job in jobs]


def accepted(record: JobRecord, position: int, backlog: Backlog) -> Job:
    """Make a job that was enqueued a moment ago behind `position` others; `backlog` is what stood before it."""
    request = record.request
    lanes = {(request.model, request.priority): backlog.behind(request)}
    values = {"status": "queued", "steps": str(request.run_steps)}
    return _view(ReadJob(values, record, request, None, None), lanes, {record.id: position}, PLAIN)


async def _positions(redis: Redis, records: Sequence[JobRecord]) -> dict[str, int]:
    if not records:
        return {}
    async with redis.pipeline(transaction=False) as pipe:
        for record in records:
            pipe.lpos(queue_key(queue_name(record.request.model, record.request.priority)), record.id)
        positions = await pipe.execute()
    # One that is being claimed stands in no list: nothing is before it.
    return {record.id: position or 0 for record, position in zip(records, positions, strict=True)}


def _view(
    job: ReadJob, backlogs: Mapping[tuple[str, Lane], Backlog], positions: Mapping[str, int], urls: ImageUrls
) -> Job:
    values, record, request, result, error = job
    status, step, steps = values["status"], int(values.get("step", 0)), int(values["steps"])
    started_at, position = _time(values, "started_at"), positions.get(record.id)
    backlog = backlogs.get((request.model, request.priority))
    eta = None
    if backlog is not None and status == "running" and started_at is not None:
        eta = running_eta(step, steps, started_at, request, backlog.fleet)
    elif backlog is not None and status == "queued":
        eta = queued_eta(request, backlog, position or 0)
    fields: dict[str, Any] = {
        "id": record.id,
        "kind": request.kind,
        "status": status,
        "created_at": record.created_at,
        "started_at": started_at,
        "ended_at": _time(values, "ended_at"),
        "position": position,
        "eta_s": None if eta is None else round(eta, 3),
        "progress": Progress(step=step, steps=steps),
        "request": request.for_clients(),
        "images": _with_urls(result.images, urls) if result else (),
        "error": error,
        "warnings": record.warnings,
        "timings": result.timings if result else Timings(),
    }
    return Job(**fields)


def _with_urls(images: tuple[ImageInfo, ...], urls: ImageUrls) -> tuple[ImageInfo, ...]:
    return tuple(image.model_copy(update={"url": urls.of(image.url)}) for image in images)


def _time(values: Hash, field: str) -> datetime | None:
    return datetime.fromisoformat(values[field]) if values.get(field) else None


async def list_jobs(redis: Redis, backlogs: Backlogs, caller: Caller, query: ListQuery) -> JobPage:
    """List jobs, newest first, from the cursor on. Expired ones are passed over until a worker sweeps them.

    A page is shorter than its limit, but has a next one, where MOST_PAGES of ids had no more that match, and where a
    newer release wrote some, which are left out.

    Raises:
        InvalidRequest: the cursor is none that a list gave.
    """
    found, rest = await _find(redis, caller.listed, query)
    page = found[: query.limit]
    jobs = await _views(redis, backlogs, caller.urls, _readable([values for _, values in page]))
    return JobPage(items=jobs, next_cursor=page[-1][0] if len(found) > query.limit else rest)


def _readable(hashes: Sequence[Hash]) -> list[ReadJob]:
    found = [job for values in hashes if (job := _or_none(values)) is not None]
    if left_out := len(hashes) - len(found):
        log.warning("a list leaves jobs of a newer release out", count=left_out)
    return found


def _or_none(values: Hash) -> ReadJob | None:
    """None if only a newer release can read it."""
    try:
        return _read(values)
    except NewerRelease:
        return None


async def _find(redis: Redis, owner: str, query: ListQuery) -> tuple[list[tuple[str, Hash]], str | None]:
    """Find matching jobs, one more than the limit if there are, and where to go on if not all ids were looked at."""
    found: list[tuple[str, Hash]] = []
    position = _parse_cursor(query.cursor)
    for _ in range(MOST_PAGES):
        batch = await _after(redis, owner, position)
        if not batch:
            return found, None
        found += [(_cursor(job_id, score), h) for job_id, score, h in batch if h is not None and _matches(h, query)]
        position = (batch[-1][1], batch[-1][0])
        if len(found) > query.limit:
            break
    return found, None if position is None else _cursor(position[1], position[0])


def _matches(values: Hash, query: ListQuery) -> bool:
    if query.status is not None and values["status"] != query.status:
        return False
    if query.kind is None and query.q is None:
        return True
    try:
        request = JobRecord.read(values["record"]).request
    except NewerRelease:
        return False
    if query.kind is not None and request.kind != query.kind:
        return False
    return query.q is None or query.q.casefold() in f"{request.text}\n{request.negative_text}".casefold()


async def _after(redis: Redis, owner: str, position: tuple[int, str] | None) -> list[tuple[str, int, Hash | None]]:
    """Read up to PAGE ids after `position` (created ms, id) in descending order, and their hashes."""
    top = "+inf" if position is None else position[0]
    start = 0
    found: list[tuple[str, int]] = []
    while len(found) < PAGE:
        ids: Any = await redis.zrevrangebyscore(list_key(owner), top, "-inf", start=start, num=PAGE, withscores=True)
        found += [(i, int(s)) for i, s in ids if position is None or (int(s), i) < position]
        start += len(ids)
        if len(ids) < PAGE:
            break
    return await _hashes(redis, found[:PAGE])


async def _hashes(redis: Redis, ids: Sequence[tuple[str, int]]) -> list[tuple[str, int, Hash | None]]:
    async with redis.pipeline(transaction=False) as pipe:
        for job_id, _ in ids:
            pipe.hgetall(job_key(job_id))
        hashes = await pipe.execute()
    return [(i, s, h if "record" in h else None) for (i, s), h in zip(ids, hashes, strict=True)]


def _cursor(job_id: str, created_ms: int) -> str:
    return base64.urlsafe_b64encode(f"{created_ms}.{job_id}".encode()).decode().rstrip("=")


def _parse_cursor(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        created_ms, _, job_id = text.partition(".")
        return int(created_ms), job_id
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"cursor {cursor!r} is none that a list gave", field="cursor", value=cursor, bound="a next_cursor"
        ) from error
