"""/metrics of the gateway on a port of its own, which asks for no key: for a network that only Prometheus reaches."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response

from core.listen import listen
from core.settings import Settings
from service.http import handlers
from service.http.problems import error_response
from service.routes import metrics
from service.state import Gateway


class SideServer(uvicorn.Server):
    """Leaves the signals to the gateway's own server."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen_for_metrics(settings: Settings) -> socket.socket | None:
    """Open LATENTD_METRICS_PORT, where it is set. Raises ConfigurationError as `listen`."""
    port = settings.metrics_port
    return None if port is None else listen(settings.metrics_host, port, "LATENTD_METRICS_PORT")


@asynccontextmanager
async def metrics_port(gateway: Gateway, listening: socket.socket | None) -> AsyncIterator[None]:
    """Serve what `listen_for_metrics` opened until the block ends."""
    if listening is None:
        yield
        return
    config = uvicorn.Config(_app(gateway), log_config=None, log_level="warning", access_log=False, lifespan="off")
    server = SideServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _app(gateway: Gateway) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway = gateway
    app.include_router(metrics.router)
    handlers.install(app)
    app.add_exception_handler(Exception, _on_any)
    return app


async def _on_any(request: Request, error: Exception) -> Response:
    """Answer what no handler does: no middleware stands before this application."""
    return error_response(handlers.unexpected(error, request.url.path), request.scope)
