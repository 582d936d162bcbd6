"""Who asks, as every route but the open ones depends on it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from service.auth.access import Caller, authorize
from service.state import current


async def enter(request: Request) -> Caller:
    """The caller, known before a body is read. Raises as `authorize`."""
    gateway = await current(request)  # not a dependency: FastAPI solves those of a cached one again and again
    required = gateway.keys_required
    return await authorize(gateway.redis, gateway.keys_made, request.scope, request.headers, required=required)


Asker: TypeAlias = Annotated[Caller, Depends(enter)]
