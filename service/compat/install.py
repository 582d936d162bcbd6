"""Serves the paths of other APIs, each with errors in its own form."""

from __future__ import annotations

from fastapi import Depends, FastAPI

from service.compat.a1111.answers import error_response as a1111_error
from service.compat.a1111.routes import drawing, lists, session
from service.compat.openai import routes as openai
from service.compat.openai.answers import error_response as openai_error
from service.routes.caller import current_caller

ROUTERS = (openai.router, drawing.router, session.router, lists.router)
FORMATS = {
    "/v1/images/generations": openai_error,
    "/v1/images/edits": openai_error,
    "/v1/images/variations": openai_error,
    "/sdapi/": a1111_error,
    "/internal/": a1111_error,
}


def install(app: FastAPI) -> None:
    """Add their routes and error formats to an application that has its own."""
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(current_caller)])
    app.state.problem_formats |= FORMATS
