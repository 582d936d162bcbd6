"""GET /livez, /readyz and /docs."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse, Response
from pydantic import BaseModel

from service.routes.openapi import problems
from service.state import Current

STATIC = Path(__file__).resolve().parent.parent / "static"

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers, or can work."""

    status: str


@router.get("/livez", summary="The process answers")
async def livez() -> Health:
    return Health(status="alive")


@router.get("/readyz", summary="The process can take requests", responses=problems())
async def readyz(gateway: Current) -> Health:
    await gateway.redis.ping()
    return Health(status="ready")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    return FileResponse(STATIC / "docs.html", headers={"Cache-Control": "no-cache"})


@router.get("/docs/", include_in_schema=False)
async def docs_with_slash() -> Response:
    """Send to the page's own address, below which its relative URLs mean what they say."""
    return RedirectResponse("../docs", 308)
