"""POST /v1/txt2img and its siblings, one a kind: requests become jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from contract.base import Kind
from contract.job import Job
from core.errors import Conflict, JobFailed, Problem
from jobs.create import Created
from service import submit as tasks
from service.auth.access import Caller
from service.http.problems import problem_response
from service.jobs.events import Stop, wait_end
from service.jobs.images import picture_response
from service.jobs.views import accepted, read_job
from service.requests.preferences import Preferences, check_accepted
from service.routes.asker import Asker
from service.routes.openapi import task_body, task_responses
from service.state import Gateway, current

router = APIRouter(prefix="/v1", tags=["tasks"])


class TaskQuery(BaseModel):
    """Query of every task."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Answer the resolved request, tokens and estimate; no job.")


Options = Annotated[TaskQuery, Query()]


@router.post(
    "/txt2img",
    summary="Text to image",
    status_code=202,
    responses=task_responses(Job | tasks.DryRun),
    openapi_extra=task_body("txt2img"),
    response_model=Job,
)
async def txt2img(request: Request, caller: Asker, query: Options) -> Response:
    return await _run(request, caller, "txt2img", query)


@router.post(
    "/inpaint",
    summary="Repaint the masked part of a picture",
    status_code=202,
    responses=task_responses(Job | tasks.DryRun),
    openapi_extra=task_body("inpaint"),
    response_model=Job,
)
async def inpaint(request: Request, caller: Asker, query: Options) -> Response:
    """Pixels outside the mask (and its feather) are byte-equal to the upload in PNG and WebP answers."""
    return await _run(request, caller, "inpaint", query)


@router.post(
    "/upscale",
    summary="Super-resolution",
    status_code=202,
    responses=task_responses(Job | tasks.DryRun),
    openapi_extra=task_body("upscale"),
    response_model=Job,
)
async def upscale(request: Request, caller: Asker, query: Options) -> Response:
    """The answer is the model's `scale` times larger than the picture, in width and in height."""
    return await _run(request, caller, "upscale", query)


@router.post(
    "/img2img",
    summary="Draw over a picture",
    status_code=202,
    responses=task_responses(Job | tasks.DryRun),
    openapi_extra=task_body("img2img"),
    response_model=Job,
)
async def img2img(request: Request, caller: Asker, query: Options) -> Response:
    """SDEdit: noise by `strength` over the picture, then the last steps of a drawing. Transparency is left out."""
    return await _run(request, caller, "img2img", query)


@router.post(
    "/class2img",
    summary="A picture of a class",
    status_code=202,
    responses=task_responses(Job | tasks.DryRun),
    openapi_extra=task_body("class2img"),
    response_model=Job,
)
async def class2img(request: Request, caller: Asker, query: Options) -> Response:
    return await _run(request, caller, "class2img", query)


@router.post(
    "/semantic2img",
    summary="Label map to image",
    status_code=202,
    responses=task_responses(Job | tasks.DryRun),
    openapi_extra=task_body("semantic2img"),
    response_model=Job,
)
async def semantic2img(request: Request, caller: Asker, query: Options) -> Response:
    """A class that the model hasn't is refused with the position (x, y) of its first pixel."""
    return await _run(request, caller, "semantic2img", query)


async def _run(request: Request, caller: Caller, kind: Kind, query: TaskQuery) -> Response:
    gateway = await current(request)
    body, preferences = await tasks.read(gateway, request, kind)
    if query.dry_run:
        planned = await tasks.plan(gateway, body, preferences)
        return JSONResponse(tasks.dry_run(gateway, planned).model_dump(mode="json"))
    created = await tasks.find_replay(gateway, caller, body, preferences)
    if created is None:
        planned = await tasks.plan(gateway, body, preferences)
        created = await tasks.enqueue(gateway, caller, planned)
        if preferences.wait_s is None and not created.replayed:
            job = accepted(created.record, created.position, planned.backlog)
            return _json(job, 202, {"Location": f"/v1/jobs/{job.id}"})
    if preferences.picture:
        check_accepted(created.record.request.output_format, [preferences.output_format])
    return await _answer(request, gateway, caller, preferences, created)


async def _answer(
    request: Request, gateway: Gateway, caller: Caller, preferences: Preferences, created: Created
) -> Response:
    job_id = created.record.id
    headers = {"Location": f"/v1/jobs/{job_id}"}
    if created.replayed:
        headers["Idempotency-Replayed"] = "true"
    ended = False
    if preferences.wait_s is not None:
        if preferences.wait_preferred:
            headers["Preference-Applied"] = f"wait={preferences.wait_s:g}"
        stop = Stop(gateway.ends, gateway.stopping)
        ended = await wait_end(gateway.redis, job_id, preferences.wait_s, stop, request.is_disconnected)
    job = await read_job(gateway.redis, gateway.backlogs, caller, job_id)
    if ended:
        return await _ended(gateway, caller, preferences, job, headers)
    return _json(job, 202, headers)


def _json(job: Job, status: int, headers: dict[str, str]) -> Response:
    return Response(job.model_dump_json(), status, headers, "application/json")


async def _ended(
    gateway: Gateway, caller: Caller, preferences: Preferences, job: Job, headers: dict[str, str]
) -> Response:
    if job.status == "failed":
        return problem_response(_failure(job), headers)
    if not preferences.picture:
        return _json(job, 200, headers)
    if job.status == "canceled":
        raise Conflict(f"job {job.id} was canceled; there is no image", value=job.id)
    headers["Latentd-Seed"] = str(job.request.seed)
    return await picture_response(gateway.redis, gateway.store, caller, job.images[0].id, None, False, headers)


def _failure(job: Job) -> Problem:
    """The job's own problem; deterministic faults of the job answer as their status says, 500 or 504."""
    if job.error is None:
        return JobFailed(f"job {job.id} failed", value=job.id).problem()
    return job.error
