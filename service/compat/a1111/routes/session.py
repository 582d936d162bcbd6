"""GET /sdapi/v1/progress, POST interrupt and skip, the options: what the web UI's clients do while they wait."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from core.errors import InvalidRequest
from service.compat.a1111.answers import ProgressAnswer
from service.compat.a1111.catalog import find_model, options
from service.compat.a1111.draw import CHECKPOINT, PREVIEW_EVERY
from service.compat.a1111.posts import Sent
from service.compat.a1111.results import progress_answer
from service.compat.a1111.routes.document import answers, body
from service.compat.attended import current_job, end_current
from service.compat.fields import read_json
from service.http.problems import shown
from service.routes.caller import CurrentCaller
from service.state import Current

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])


class ProgressQuery(BaseModel):
    """Query of the progress; what clients send beside it isn't read."""

    skip_current_image: bool = Field(default=False, description="Leave the preview out.")


class OptionsPost(Sent):
    """Settings by their names."""


@router.get("/progress", name="a1111_progress", summary="How far the caller's oldest job is", responses=answers())
async def progress(gateway: Current, caller: CurrentCaller, query: Annotated[ProgressQuery, Query()]) -> ProgressAnswer:
    """Of the caller's own jobs alone, and of those alone that a call of this API waits for."""
    job, count = await current_job(gateway, caller)
    return await progress_answer(gateway, job, count, picture=not query.skip_current_image)


async def interrupt(gateway: Current, caller: CurrentCaller) -> Response:
    """Ends the job that `progress` tells of; its call is answered without images."""
    await end_current(gateway, caller)
    return JSONResponse({})


for path in ("interrupt", "skip"):
    router.add_api_route(
        f"/{path}",
        interrupt,
        methods=["POST"],
        name=f"a1111_{path}",
        summary="Cancel the caller's oldest job",
        response_model=dict[str, Any],
        responses=answers(),
    )


@router.get("/options", name="a1111_options", summary="What the web UI's settings are here", responses=answers())
async def read_options(gateway: Current) -> dict[str, Any]:
    return options(await gateway.cards.all(), gateway.settings.model, PREVIEW_EVERY)


@router.post(
    "/options",
    name="a1111_set_options",
    summary="Nothing can be set: what is already so is accepted",
    responses=answers(400, 408, 413, 415),
    openapi_extra=body(OptionsPost),
)
async def write_options(request: Request, gateway: Current) -> None:
    """A setting would be everybody's: requests say it themselves, in `override_settings`."""
    post, cards = await read_json(request, OptionsPost), await gateway.cards.all()
    current = options(cards, gateway.settings.model, PREVIEW_EVERY)
    for name, value in post.extras.items():
        if name == CHECKPOINT and isinstance(value, str):
            same = find_model(cards, value) == find_model(cards, str(current[CHECKPOINT]))
        else:
            same = name in current and value == current[name]
        if not same:
            raise _refusal(name, value)


def _refusal(name: str, value: Any) -> InvalidRequest:
    if name == CHECKPOINT:
        how = f"send override_settings.{CHECKPOINT} with each request, or start the service with LATENTD_MODEL"
    else:
        how = "options are read here and never set"
    return InvalidRequest(f"{name} can't be set to {shown(value)!r} for everybody: {how}", field=name, value=value)
