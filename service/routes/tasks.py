"""POST /v1/txt2img and its siblings, one a kind: requests become jobs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.job import Job
from service.auth.access import Caller
from service.http.bodies import LET_GO
from service.http.problems import problem_response
from service.http.warnings import warning_headers
from service.jobs.images import check_not_canceled, fault, picture_response
from service.requests.bodies import read_body
from service.requests.kinds import KINDS, TaskKind
from service.requests.preferences import Preferences, read_preferences
from service.routes.caller import CurrentCaller, current_caller
from service.routes.openapi import task_body, task_responses
from service.state import Gateway, current
from service.submit import Client, DryRun, Submitted, submit


class TaskQuery(BaseModel):
    """Query of every task."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Answer the resolved request, tokens and estimate; no job.")


Options = Annotated[TaskQuery, Query()]
NO_OPTIONS = TaskQuery()


class TaskRoute(APIRoute):
    """A route whose signature describes it in the document, while a post finds its caller and its query itself.

    FastAPI solves both anew for the router and for the route: a fifth of what the gateway does for a job.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            caller = await current_caller(request)
            answer: Response = await self.endpoint(request, caller, read_query(request))
            return answer

        return handle


def read_query(request: Request) -> TaskQuery:
    """Read the query, which most posts lack.

    Raises:
        RequestValidationError: a parameter is unknown or of the wrong type.
    """
    if not request.scope["query_string"]:
        return NO_OPTIONS
    try:
        return TaskQuery.model_validate(dict(request.query_params))
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**item, "loc": ("query", *item["loc"])} for item in found]) from error


router = APIRouter(prefix="/v1", tags=["tasks"], route_class=TaskRoute)


def add_route(task: TaskKind[Any]) -> None:
    """Serve one kind of task."""

    async def post(request: Request, caller: CurrentCaller, query: Options) -> Response:
        gateway = await current(request)
        body = await read_body(request, task)
        max_wait_s = gateway.settings.max_wait_s
        preferences = read_preferences(request.headers, body.post, max_wait_s, dry_run=query.dry_run)
        if preferences.picture:
            caller.check_reads()
        client = Client(request.is_disconnected, request.scope[LET_GO])
        submitted = await submit(gateway, caller, body, preferences, client)
        if isinstance(submitted, DryRun):
            return JSONResponse(submitted.model_dump(mode="json"))
        request.state.location = f"{gateway.prefix}/v1/jobs/{submitted.job.id}"
        return await _answer(gateway, caller, preferences, submitted, request.state.location)

    router.add_api_route(
        f"/{task.kind}",
        post,
        methods=["POST"],
        name=task.kind,
        summary=task.summary,
        description=task.description,
        status_code=202,
        responses=task_responses(Job | DryRun),
        openapi_extra=task_body(task),
        response_model=Job,
    )


async def _answer(
    gateway: Gateway, caller: Caller, preferences: Preferences, submitted: Submitted, location: str
) -> Response:
    job = submitted.job
    headers = {"Location": location}
    if submitted.replayed:
        headers["Idempotency-Replayed"] = "true"
    if preferences.wait_preferred:
        headers["Preference-Applied"] = f"wait={preferences.wait_s:g}"
    if not submitted.ended:
        return _json(job, 202, headers)
    if (problem := fault(job)) is not None:
        return problem_response(problem, headers)
    if not preferences.picture:
        return _json(job, 200, headers)
    check_not_canceled(job)
    headers["Latentd-Seed"] = str(job.request.seed)
    headers |= warning_headers(job.warnings)
    return await picture_response(gateway.redis, gateway.store, caller, job.images[0].id, None, False, headers)


def _json(job: Job, status: int, headers: dict[str, str]) -> Response:
    return Response(job.model_dump_json(), status, headers, "application/json")


for each in KINDS.values():
    add_route(each)
