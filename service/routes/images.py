"""GET /v1/images/{id}: the bytes of a finished job's image."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.jobs.images import picture_response, redirect
from service.requests.preferences import MEDIA_TYPES
from service.routes.caller import CurrentCaller
from service.routes.openapi import BINARY, problems
from service.state import Current

router = APIRouter(prefix="/v1", tags=["images"])

Flag = Annotated[bool, BeforeValidator(lambda value: True if value == "" else value)]  # ?download


class ImageQuery(BaseModel):
    """Query of an image."""

    model_config = ConfigDict(extra="forbid")

    download: Flag = Field(default=False, description="Answer as an attachment with a file name.")
    expires: str | None = Field(
        default=None, max_length=20, description="Of a signed URL, as `url` of the image has it."
    )
    signature: str | None = Field(default=None, max_length=128, description="Of a signed URL.")


@router.get(
    "/images/{id}",
    name="get_image",
    summary="An image's bytes",
    response_class=Response,
    responses={
        200: {"content": {each: {"schema": BINARY} for each in MEDIA_TYPES.values()}, "description": "The file."},
        304: {"description": "The client's copy is current."},
        307: {"description": "At a presigned URL of the storage, where LATENTD_STORAGE_PUBLIC_URL is set."},
        **problems(404, 410, 500),
    },
)
async def image(
    id: str,
    gateway: Current,
    caller: CurrentCaller,
    query: Annotated[ImageQuery, Query()],
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    if gateway.public is not None and not query.download and if_none_match is None:
        return await redirect(gateway.public, gateway.redis, caller, id)
    return await picture_response(gateway.redis, gateway.store, caller, id, if_none_match, query.download, {})
