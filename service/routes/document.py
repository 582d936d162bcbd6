"""GET /openapi.json."""

from __future__ import annotations

import gzip
import re

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

router = APIRouter()

_TAKES_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")


@router.get("/openapi.json", include_in_schema=False)
async def document(request: Request) -> Response:
    """Answer the document, compressed where the client takes that: it is most of what the page loads first."""
    plain = JSONResponse(request.app.openapi(), headers={"Vary": "Accept-Encoding"})
    if not _TAKES_GZIP.search(request.headers.get("Accept-Encoding", "")):
        return plain
    headers = {"Vary": "Accept-Encoding", "Content-Encoding": "gzip"}
    return Response(gzip.compress(bytes(plain.body), mtime=0), headers=headers, media_type="application/json")
