"""GET /openapi.json."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

router = APIRouter()


@router.get("/openapi.json", include_in_schema=False)
async def document(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())
