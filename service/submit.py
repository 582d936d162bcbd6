"""From a parsed request of any kind to its job: planned, stored, enqueued, and waited for if the client wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from pydantic import BaseModel, Field
from redis.exceptions import OutOfMemoryError, RedisError

from contract.card import ModelCard
from contract.job import Job, JobRecord, JobWarning
from contract.request import JobRequest
from contract.stages import models_of
from core.clock import CLOCK
from core.errors import Conflict, InvalidRequest, NewerRelease, QueueFull, RateLimited
from core.redis_errors import is_transient
from jobs.create import Created, LaneFull, create, drawn_seed, find, key_digest, new_id, replay
from service.admission.estimates import Backlog, Estimate, estimate, gpu_seconds, idle_seconds, least_seconds
from service.auth.access import Caller
from service.jobs.events import StopSignals, wait_end
from service.jobs.views import accepted, read_job
from service.requests.bodies import Body
from service.requests.posts import Drawn, Prompted, Txt2ImgPost
from service.requests.preferences import Preferences, check_accepted
from service.requests.resolution import NOTHING, Known, resolve, tokens_of, warnings_of
from service.requests.tokens import Tokens
from service.requests.uploads import (
    Pictures,
    check_disk_space,
    check_mounted,
    check_pictures,
    discard_pictures,
    store_pictures,
)
from service.state import Gateway
from service.webhooks.addresses import check_url

log = structlog.get_logger("service")


class DryRun(BaseModel):
    """What a request would do."""

    request: JobRequest
    tokens: Tokens
    negative_tokens: Tokens | None = Field(
        default=None, exclude_if=lambda tokens: tokens is None, description="With prompt_syntax weighted."
    )
    estimate: Estimate
    position: int = Field(description="Jobs that would go before it in its lane, running ones included.")
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A request ready to be enqueued."""

    job_id: str
    body: Body
    preferences: Preferences
    card: ModelCard
    folder: Path | None  # of the model, where it is installed here
    pictures: Pictures
    request: JobRequest
    warnings: tuple[JobWarning, ...]
    backlog: Backlog
    vectors: Mapping[str, int]  # of the embeddings that it names


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job at the moment at which its client is answered."""

    job: Job
    replayed: bool  # an earlier request with the same key had made it
    ended: bool  # it was waited for, and has ended


@dataclass(frozen=True, slots=True)
class Client:
    """Who may wait for a job: whether it has `left`, and what is told once nothing of its body is held any more."""

    left: Callable[[], Awaitable[bool]]
    let_go: Callable[[], None] = lambda: None


async def submit(
    gateway: Gateway, caller: Caller, body: Body, preferences: Preferences, client: Client
) -> DryRun | Submitted:
    """Make the job of a request, or find the one that its key stands for, and wait for its end as long as preferred.

    Every route that makes jobs calls this and only translates. While it waits it holds no picture of `body`.

    Raises:
        LatentdError: as `find_replay`, `plan` and `enqueue` refuse it.
        InvalidRequest: the job that the key stands for has another format than the client accepts.
    """
    created, made = await find_replay(gateway, caller, body, preferences), None
    if preferences.dry_run:
        return dry_run(caller, await plan(gateway, body, preferences))
    if created is None:
        created, made = await _make(gateway, caller, body, preferences)
    body.drop_files()
    client.let_go()
    if made is not None and preferences.wait_s is None:
        return Submitted(made, replayed=False, ended=False)
    if preferences.picture:
        check_accepted(created.record.request.output_format, preferences.accepted)
    job_id, ended = created.record.id, False
    if preferences.wait_s is not None:
        stop = StopSignals(gateway.waiters, gateway.stopping)
        ended = await wait_end(gateway.redis, job_id, preferences.wait_s, stop, client.left)
    try:
        job = await read_job(gateway.redis, gateway.backlogs, caller, job_id)
    except RedisError as error:
        if made is None or not is_transient(error):
            raise
        return Submitted(made, replayed=False, ended=False)  # its id is more than that Redis is away
    return Submitted(job, created.replayed, ended)


async def _make(gateway: Gateway, caller: Caller, body: Body, preferences: Preferences) -> tuple[Created, Job | None]:
    """Make the job, as it stands a moment later; None for one that another request with the key made meanwhile."""
    planned = await plan(gateway, body, preferences)
    created = await enqueue(gateway, caller, planned)
    return created, None if created.replayed else accepted(created.record, created.position, planned.backlog)


async def find_replay(gateway: Gateway, caller: Caller, body: Body, preferences: Preferences) -> Created | None:
    """Find the job that an earlier request with the same key made: it is answered whatever is full or gone by now."""
    if preferences.key is None:
        return None
    record = await find(gateway.redis, key_digest(preferences.key, body.kind, caller.owner))
    return None if record is None else replay(record, body.digest, preferences.key)


async def plan(gateway: Gateway, body: Body, preferences: Preferences) -> PlannedJob:
    """Resolve every parameter.

    Raises:
        LatentdError: as `check_url`, `choose_card`, `check_pictures`, `resolve` and `check_deadline` refuse it.
    """
    settings, job_id = gateway.settings, new_id()
    if body.post.webhook_url is not None:
        check_url(body.post.webhook_url, settings.webhook_allow)
    card = await gateway.cards.choose(body.kind, body.post.model)
    pictures = await check_pictures(body, card, job_id, settings.max_pixels, gateway.decoders)
    seed = drawn_seed() if body.post.seed is None else body.post.seed
    known = await _known(gateway, body, card)
    request = resolve(body, card, pictures, seed, preferences.output_format, settings.max_pixels, known)
    backlog = await gateway.backlogs.of(card.id, request.priority)
    vectors = known.vectors(request)
    folder = await gateway.cards.folder(card.id)
    warnings = (*pictures.warnings, *warnings_of(request, card, folder, vectors))
    check_deadline(request, backlog)
    await _check_served(gateway, request)
    return PlannedJob(job_id, body, preferences, card, folder, pictures, request, warnings, backlog, vectors)


async def _known(gateway: Gateway, body: Body, card: ModelCard) -> Known:
    """Read the cards of what the request may name."""
    if not isinstance(body.post, Prompted):
        return NOTHING
    tagged = body.post.prompt_syntax == "weighted" and "<lora:" in body.post.prompt
    return Known(
        await gateway.loras.all() if body.post.loras or tagged else {},
        await gateway.embeddings.recent() if "prompt_syntax" in card.fields else {},
        await gateway.controlnets.all() if isinstance(body.post, Drawn) and body.post.controls else {},
        await gateway.cards.all() if isinstance(body.post, Txt2ImgPost) and body.post.hires else {},
    )


async def _check_served(gateway: Gateway, request: JobRequest) -> None:
    """Check that, of the workers with a job's model, one has the model too that enlarges in between.

    Without any worker a job waits, as all do.

    Raises:
        InvalidRequest: none has it.
    """
    own, *others = models_of(request)
    workers = await gateway.cards.live_workers(own) if others else set()
    for model in others:
        if workers and not workers & await gateway.cards.live_workers(model):
            detail = f"hires.upscaler is {model!r}, which no worker has that runs {own}"
            raise InvalidRequest(detail, field="hires.upscaler", value=model, bound=f"a model beside {own}")


def check_deadline(request: JobRequest, backlog: Backlog) -> None:
    """Refuse a deadline that can't be met: 422 on an idle queue, 429 because of this one."""
    if request.deadline_ms is None:
        return
    least_s, idle_s = least_seconds(request, backlog.fleet), idle_seconds(request, backlog.fleet)
    if least_s is None or idle_s is None:
        return
    deadline_s = request.deadline_ms / 1000
    if least_s > deadline_s:
        raise InvalidRequest(
            f"deadline_ms is {request.deadline_ms}; the job takes about {least_s:.1f} s with nothing before it",
            field="deadline_ms",
            value=request.deadline_ms,
            bound=f"{round(least_s * 1000)} or more",
        )
    wait_s = backlog.wait_s(request) or 0.0
    if wait_s + idle_s > deadline_s:
        detail = (
            f"deadline_ms is {request.deadline_ms}; "
            f"jobs before and beside it take about {wait_s:.1f} s, the job {idle_s:.1f} s"
        )
        late = max(1, round(wait_s + idle_s - deadline_s))
        raise QueueFull(detail, retry_after=late, field="deadline_ms", value=request.deadline_ms)


def dry_run(caller: Caller, planned: PlannedJob) -> DryRun:
    """The plan as an answer; nothing is stored.

    What may be otherwise in a moment isn't looked at: how full lane and disk are, what of the day's budget is left.

    Raises:
        InvalidRequest: as `_charge`.
    """
    _charge(caller, planned)
    request = planned.request
    counted = partial(tokens_of, request, planned.card, planned.folder, vectors=planned.vectors)
    return DryRun(
        request=request.for_clients(),
        tokens=counted(request.text),
        negative_tokens=counted(request.negative_text) if request.syntax == "weighted" else None,
        estimate=estimate(request, planned.backlog),
        position=planned.backlog.jobs,
        warnings=(*planned.warnings, *_waiting(planned)),
    )


def _waiting(planned: PlannedJob) -> tuple[JobWarning, ...]:
    """Warn where a job would wait for a worker to come; true for a moment, so that jobs themselves don't keep it."""
    if planned.backlog.fleet.workers:
        return ()
    return (JobWarning(field="model", message=f"no worker serves {planned.card.id} now; the job would wait for one"),)


async def enqueue(gateway: Gateway, caller: Caller, planned: PlannedJob) -> Created:
    """Store the uploads, then write the job.

    Raises:
        InvalidRequest: as `_charge`.
        QueueFull: LATENTD_QUEUE_LIMIT jobs wait in the lane.
        RateLimited: the key's GPU-seconds of the day are used up.
        DiskFull: the storage's disk has less room than LATENTD_MIN_FREE_MB.
    """
    settings, request = gateway.settings, planned.request
    await check_disk_space(gateway.room, settings.min_free_mb)
    if planned.backlog.queued >= settings.queue_limit:  # nothing is stored for a job that is refused
        raise await _full(gateway, planned, planned.backlog.queued)
    budget_s = None if caller.key is None else caller.key.gpu_s_per_day
    record = JobRecord(
        id=planned.job_id,
        created_at=CLOCK.now(),
        request=request,
        warnings=planned.warnings,
        body_hash="" if planned.preferences.key is None else planned.body.digest,
        key_digest=key_digest(planned.preferences.key, request.kind, caller.owner),
        owner=caller.owner,
        request_id=str(structlog.contextvars.get_contextvars().get("request_id", "")),
        charged_s=_charge(caller, planned),
    )
    if planned.pictures.uploads:
        await check_mounted(gateway.redis, settings, gateway.store)
    await store_pictures(gateway.store, planned.pictures)
    try:
        created = await create(gateway.redis, settings, record, planned.preferences.key, budget_s)
    except LaneFull as full:
        await discard_pictures(gateway.store, planned.pictures)
        raise await _full(gateway, planned, full.waiting) from full
    except (Conflict, NewerRelease, RateLimited, OutOfMemoryError):
        # Refused for certain; the job of a lost answer may have been made.
        await discard_pictures(gateway.store, planned.pictures)
        raise
    if created.replayed:
        await discard_pictures(gateway.store, planned.pictures)
    else:
        gateway.metrics.accepted(request)
    prompt = {"prompt": request.text} if settings.log_prompts else {}
    log.info("job accepted", job_id=created.record.id, kind=request.kind, model=request.model, **prompt)
    return created


async def _full(gateway: Gateway, planned: PlannedJob, waiting: int) -> QueueFull:
    request = planned.request
    seconds = await gateway.full_lanes.retry_after(request.model, request.priority)
    limit = gateway.settings.queue_limit
    detail = f"{waiting} jobs wait for {request.model} ({request.priority}); at most {limit}"
    return QueueFull(detail, retry_after=seconds)


def _charge(caller: Caller, planned: PlannedJob) -> float:
    """The job's predicted GPU-seconds; 0 until a worker has measured its model, and for a key without a budget.

    Raises:
        InvalidRequest: the key's budget of a whole day is less.
    """
    budget_s = None if caller.key is None else caller.key.gpu_s_per_day
    if budget_s is None:
        return 0.0
    seconds = round(gpu_seconds(planned.request, planned.backlog.fleet) or 0.0, 3)
    if seconds > budget_s:
        raise InvalidRequest(
            f"the job takes about {seconds:.1f} GPU-seconds; the key's budget of a whole day is {budget_s:g}",
            field="steps",
            value=planned.request.steps,
            bound=f"{budget_s:g} GPU-seconds",
        )
    return seconds
