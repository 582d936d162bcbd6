"""GET /v1/jobs, GET and DELETE /v1/jobs/{id}, GET /v1/jobs/{id}/events, /trace and /deliveries."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from contract.job import Job, JobRecord
from jobs.cancel import cancel
from jobs.end import Retention
from jobs.purge import check_ended, delete_objects, purge
from service.jobs.events import StopSignals, is_over, parse_event_id, server_sent
from service.jobs.payloads import event_schema
from service.jobs.streams import EventStream
from service.jobs.traces import Trace, read_trace
from service.jobs.views import JobPage, ListQuery, list_jobs, read_hash, read_job
from service.routes.caller import CurrentCaller
from service.routes.openapi import problems
from service.state import Current
from service.webhooks.outbox import Delivery, read_deliveries

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class DeleteQuery(BaseModel):
    """Query of a cancellation."""

    model_config = ConfigDict(extra="forbid")

    purge: bool = Field(default=False, description="Remove an ended job: images, uploads and record.")


class DeliveryList(BaseModel):
    """Every try, oldest first."""

    items: list[Delivery]
    next_cursor: None = None


@router.get("", name="list_jobs", summary="Jobs, newest first", responses=problems())
async def jobs(gateway: Current, caller: CurrentCaller, query: Annotated[ListQuery, Query()]) -> JobPage:
    return await list_jobs(gateway.redis, gateway.backlogs, caller, query)


@router.get("/{id}", name="get_job", summary="One job", responses=problems(404, 410))
async def job(id: str, gateway: Current, caller: CurrentCaller) -> Job:
    return await read_job(gateway.redis, gateway.backlogs, caller, id)


@router.delete(
    "/{id}",
    name="cancel_job",
    summary="Cancel a job, or purge an ended one",
    response_model=Job,
    responses={
        202: {"model": Job, "description": "Running: it ends at its next step."},
        204: {"description": "Purged."},
        **problems(404, 409, 410),
    },
)
async def delete(id: str, gateway: Current, caller: CurrentCaller, query: Annotated[DeleteQuery, Query()]) -> Response:
    """A waiting job is canceled at once, a running one at its next step; an ended one is answered unchanged."""
    values = await read_hash(gateway.redis, caller, id)
    retention = Retention.of(gateway.settings)
    if query.purge:
        check_ended(id, values["status"])
        await delete_objects(gateway.store, id)
        await asyncio.to_thread(purge, gateway.rq, retention, id)
        return Response(status_code=204)
    status = await asyncio.to_thread(cancel, gateway.rq, retention, id)
    answer = await read_job(gateway.redis, gateway.backlogs, caller, id)
    return JSONResponse(answer.model_dump(mode="json"), status_code=202 if status == "running" else 200)


@router.get(
    "/{id}/deliveries", name="list_deliveries", summary="The log of a job's webhook", responses=problems(404, 410)
)
async def deliveries(id: str, gateway: Current, caller: CurrentCaller) -> DeliveryList:
    await read_hash(gateway.redis, caller, id)
    return DeliveryList(items=await read_deliveries(gateway.redis, id))


@router.get("/{id}/trace", name="get_trace", summary="Where a job's time went", responses=problems(404, 410))
async def trace(id: str, gateway: Current, caller: CurrentCaller) -> Trace:
    """Queue wait, who shared each call, its part of the accelerator's time, and every run with how it ended."""
    return await read_trace(gateway.redis, caller, id)


@router.get(
    "/{id}/events",
    name="stream_events",
    summary="A job's events as they happen",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: queued, started, step, image, then succeeded, failed or canceled.",
            "content": {"text/event-stream": {"schema": event_schema()}},
        },
        204: {"description": "Last-Event-ID is the terminal event's: nothing follows."},
        **problems(404, 410),
    },
)
async def events(
    id: str,
    gateway: Current,
    caller: CurrentCaller,
    last_event_id: Annotated[str | None, Header(description="Go on after this event.")] = None,
) -> Response:
    """Replays from Last-Event-ID, or from the start, then follows; a live `step` may carry previews (base64 WebP)."""
    record = JobRecord.read((await read_hash(gateway.redis, caller, id))["record"])
    after = parse_event_id(last_event_id)
    if after != "0-0" and await is_over(gateway.redis, id, after):
        return Response(status_code=204)
    stream = server_sent(gateway.redis, record, after, StopSignals(gateway.waiters, gateway.stopping), caller)
    return EventStream(stream, gateway.streams, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
