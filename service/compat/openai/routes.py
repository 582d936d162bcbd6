"""POST /v1/images/generations and /v1/images/edits; /v1/images/variations, which says that it isn't served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from contract.job import Job
from core.errors import NotFound
from service.compat.attended import Session, attend
from service.compat.fields import read_json
from service.compat.files import json_of
from service.compat.openai.answers import ErrorEnvelope, ImagesAnswer, error_response
from service.compat.openai.draw import Drawing, answer, edit, generation, read_edit, warnings_of
from service.compat.openai.posts import EditPost, GenerationPost
from service.compat.openai.streams import server_sent
from service.http.warnings import HEADER_DOCUMENT, warning_headers
from service.jobs.images import check_not_canceled, fault
from service.jobs.streams import EventStream
from service.requests.kinds import EXAMPLE_PICTURE
from service.routes.caller import CurrentCaller
from service.routes.openapi import BINARY, PROBLEMS, Responses
from service.state import Current

# A wrong field is a 400 there.
_STATUSES = (400, 401, 403, 404, 406, 408, 409, 410, 413, 415, 429, 431, 500, 503, 504, 507)
_EVENT = {
    "type": "object",
    "title": "event",
    "required": ["event", "data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "contentMediaType": "application/json"}},
}
_WHOLE = {"type": "string", "title": "text", "description": "The stream, to whom it is one text."}
_STREAM = {"schema": {"oneOf": [_EVENT, _WHOLE], "description": "With stream: server-sent events, OpenAI's own."}}

router = APIRouter(prefix="/v1/images", tags=["openai"])


def _responses() -> Responses:
    content = {"application/json": {}, "text/event-stream": _STREAM}
    finished = {"model": ImagesAnswer, "description": "The images.", "content": content, "headers": HEADER_DOCUMENT}
    described = {**PROBLEMS, 400: f"{PROBLEMS[400]} {PROBLEMS[422]}"}
    refused: Responses = {status: {"model": ErrorEnvelope, "description": described[status]} for status in _STATUSES}
    return {200: finished, **refused}


def _form() -> dict[str, Any]:
    schema: dict[str, Any] = EditPost.model_json_schema()
    picture = {**BINARY, "description": "PNG, JPEG or WebP; `image[]` is read, too."}
    mask = {**BINARY, "description": "Its transparent pixels are repainted; without one, the image's own."}
    schema["properties"] = {"image": picture, "mask": mask, **schema["properties"]}
    schema["required"] = ["image", *schema["required"]]
    return schema


def _body(media: str, schema: dict[str, Any], **example: object) -> dict[str, Any]:
    examples = {"short": {"summary": "A prompt alone", "value": {"prompt": "red heart", **example}}}
    return {"requestBody": {"required": True, "content": {media: {"schema": schema, "examples": examples}}}}


@router.post(
    "/generations",
    name="openai_generations",
    summary="Text to image, as OpenAI's",
    response_model=ImagesAnswer,
    responses=_responses(),
    openapi_extra=_body("application/json", GenerationPost.model_json_schema()),
)
async def generations(request: Request, gateway: Current, caller: CurrentCaller) -> Response:
    """Waits for the end; a client that leaves before cancels the job."""
    post = await read_json(request, GenerationPost)
    if post.base64 or post.stream:
        caller.check_reads()
    session = Session(gateway, caller, request.is_disconnected)
    return await _drawn(session, request, await generation(gateway, post))


@router.post(
    "/edits",
    name="openai_edits",
    summary="Repaint or draw over a picture, as OpenAI's",
    response_model=ImagesAnswer,
    responses=_responses(),
    openapi_extra=_body("multipart/form-data", _form(), image=EXAMPLE_PICTURE),
)
async def edits(request: Request, gateway: Current, caller: CurrentCaller) -> Response:
    """Waits for the end; a client that leaves before cancels the job."""
    post, files = await read_edit(request)
    if post.base64 or post.stream:
        caller.check_reads()
    session = Session(gateway, caller, request.is_disconnected)
    drawing = await edit(gateway, post, files)
    del files  # a call that waits for minutes holds none
    return await _drawn(session, request, drawing)


@router.post("/variations", include_in_schema=False)
async def variations() -> None:
    """Refuse what would else be taken for an image's id."""
    raise NotFound("variations aren't served; POST /v1/images/edits draws over a picture, with a prompt")


async def _drawn(session: Session, request: Request, drawing: Drawing) -> Response:
    if drawing.post.stream:
        return await _streamed(session, drawing)
    job = await attend(session, drawing.body, drawing.post.output_format or "png")
    headers = warning_headers(warnings_of(drawing, job))
    problem = fault(job)
    if problem is not None:
        return error_response(problem, headers)
    check_not_canceled(job)
    return await json_of(await answer(session, request, drawing, job), headers, exclude_none=True)


async def _streamed(session: Session, drawing: Drawing) -> Response:
    session.gateway.streams.check()  # a job made for a stream that is refused would be drawn for nobody
    jobs: list[Job] = []
    events = server_sent(session, drawing, jobs.append)
    first = await anext(events)  # the job is made, or refused with a status

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in events:
            yield piece

    told = warning_headers(warnings_of(drawing, jobs[0]))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **told}
    return EventStream(whole(), session.gateway.streams, headers)
