"""From a request of any kind to its job: parsed, planned, stored, enqueued, and waited for if the client wants."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from pydantic import BaseModel

from latentd.errors import InvalidRequest, QueueFull
from service.bodies import Body, read_body
from service.cards import choose_card
from service.contract import JobRequest, JobWarning, Kind, ModelCard
from service.estimate import Backlog, Estimate, idle_seconds, predict, read_backlog
from service.preferences import Preferences, read_preferences
from service.queue import Created, create, drawn_seed, new_id, read_record, replay
from service.resolve import resolve, warnings_of
from service.state import Gateway
from service.tokens import Tokens, count_tokens
from service.uploads import Pictures, check_pictures, store_pictures


class DryRun(BaseModel):
    """What a request would do."""

    request: JobRequest
    tokens: Tokens
    estimate: Estimate
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A request ready to be enqueued."""

    job_id: str
    body: Body
    preferences: Preferences
    card: ModelCard
    pictures: Pictures
    request: JobRequest
    warnings: tuple[JobWarning, ...]
    backlog: Backlog


async def read(gateway: Gateway, request: Request, kind: Kind) -> tuple[Body, Preferences]:
    """The request's body and what its headers ask for."""
    body = await read_body(request, kind)
    return body, read_preferences(request.headers, body.post, gateway.settings.max_wait_s)


async def find_replay(gateway: Gateway, body: Body, preferences: Preferences) -> Created | None:
    """The job that an earlier request with the same key made: it is answered whatever is full or gone by now."""
    if preferences.key is None:
        return None
    record = await read_record(gateway.redis, new_id(body.kind, preferences.key))
    return None if record is None else replay(record, body.digest, preferences.key)


async def plan(gateway: Gateway, body: Body, preferences: Preferences) -> Plan:
    """Resolve every parameter; raises the refusals of `choose_card`, `check_pictures` and `resolve`."""
    settings, job_id = gateway.settings, new_id(body.kind, preferences.key)
    card = choose_card(await gateway.shelf.all(), body.kind, body.post.model, settings.model)
    pictures = await check_pictures(body, job_id, settings.max_pixels, gateway.decoding)
    seed = drawn_seed(job_id) if body.post.seed is None else body.post.seed
    request = resolve(body, card, pictures, seed, preferences.output_format, settings.max_pixels)
    workers = await gateway.shelf.live_workers(card.id)
    backlog = await read_backlog(gateway.redis, card.id, request.priority, workers)
    warnings = warnings_of(request, card, gateway.shelf.folder(card.id))
    check_deadline(request, backlog)
    return Plan(job_id, body, preferences, card, pictures, request, warnings, backlog)


def check_deadline(request: JobRequest, backlog: Backlog) -> None:
    """Refuse a deadline that can't be met: 422 on an idle queue, 429 because of this one."""
    if request.deadline_ms is None or backlog.rates is None:
        return
    idle_s, deadline_s = idle_seconds(request, backlog.rates), request.deadline_ms / 1000
    if idle_s > deadline_s:
        raise InvalidRequest(
            f"deadline_ms is {request.deadline_ms}; the job takes about {idle_s:.1f} s with nothing before it",
            field="deadline_ms",
            value=request.deadline_ms,
            bound=f"{round(idle_s * 1000)} or more",
        )
    wait_s = backlog.wait_s or 0.0
    if wait_s + idle_s > deadline_s:
        detail = f"deadline_ms is {request.deadline_ms}; the queue alone takes about {wait_s:.1f} s"
        late = max(1, round(wait_s + idle_s - deadline_s))
        raise QueueFull(detail, retry_after=late, field="deadline_ms", value=request.deadline_ms)


def dry_run(gateway: Gateway, planned: Plan) -> DryRun:
    """The plan as an answer; nothing is stored."""
    request, folder = planned.request, gateway.shelf.folder(planned.card.id)
    tokens = count_tokens(planned.card, folder, request.prompt)
    return DryRun(request=request, tokens=tokens, estimate=predict(request, planned.backlog), warnings=planned.warnings)


async def enqueue(gateway: Gateway, planned: Plan) -> Created:
    """Store the uploads, then write the job.

    Raises:
        QueueFull: LATENTD_QUEUE_LIMIT jobs wait in the lane.
    """
    backlog, settings = planned.backlog, gateway.settings
    if backlog.queued >= settings.queue_limit:
        request = planned.request
        detail = f"{backlog.queued} jobs wait for {request.model} ({request.priority}); at most {settings.queue_limit}"
        raise QueueFull(detail, retry_after=backlog.retry_after)
    await store_pictures(gateway.store, planned.pictures)
    return await create(
        gateway.redis,
        gateway.rq,
        settings,
        planned.job_id,
        planned.request,
        planned.warnings,
        planned.body.digest,
        planned.preferences.key,
    )
