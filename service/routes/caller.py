"""Who asks, as every route but the open ones depends on it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from service.auth.access import Caller, authorize
from service.state import current


async def current_caller(request: Request) -> Caller:
    """Find out who calls, before the body is read. Raises as `authorize`."""
    gateway = await current(request)  # not a dependency: FastAPI solves those of a cached one again and again
    required = gateway.keys_required
    scope, headers = request.scope, request.headers
    return await authorize(gateway.redis, gateway.keys_made, scope, headers, required=required, prefix=gateway.prefix)


CurrentCaller: TypeAlias = Annotated[Caller, Depends(current_caller)]
