"""The gateway: `create_app` wires it, `serve` listens."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from latentd import __version__
from latentd.errors import ConfigurationError
from latentd.settings import Settings
from service import openapi, problems
from service.guards import Guards, is_loopback
from service.routes import health, images, jobs, models, tasks
from service.state import open_gateway

STOP_S = 5  # how long open answers may go on after a signal
BACKLOG = 2048

log = structlog.get_logger("service")


def create_app(settings: Settings) -> FastAPI:
    """The whole application; it connects to Redis with the first request that needs it."""
    gateway = open_gateway(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = FastAPI(
        title="latentd",
        version=__version__,
        summary="Prompts, masks and small pictures in, images out.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.gateway = gateway
    for routes in (tasks, jobs, images, models, health):
        app.include_router(routes.router)
    app.frontend("/", directory=health.STATIC, fallback=None, check_dir=False)
    problems.install(app)
    openapi.install(app)
    app.add_middleware(Guards, settings=settings, metrics=gateway.metrics)
    return app


class Server(uvicorn.Server):
    """Tells open event streams and waits of a stop at once: they would hold it up."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.gateway.stopping.set()
        super().handle_exit(sig, frame)


def serve(settings: Settings, *, insecure: bool = False) -> None:
    """Listen on settings.host and settings.port until signalled.

    Raises:
        ConfigurationError: an address that others reach, without `insecure`: there are no keys yet.
    """
    if not is_loopback(settings.host) and not insecure:
        raise ConfigurationError(
            f"LATENTD_HOST={settings.host} is reachable by others and nothing asks for keys; pass --insecure to listen",
            field="LATENTD_HOST",
            value=settings.host,
            bound="a loopback address, or --insecure",
        )
    listening = _listen(settings)
    config = uvicorn.Config(
        create_app(settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
    )
    log.info("ready", url=f"http://{settings.host}:{listening.getsockname()[1]}")
    Server(config).run(sockets=[listening])


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"LATENTD_HOST={settings.host} LATENTD_PORT={settings.port}: {error.strerror}",
            field="LATENTD_PORT",
            value=settings.port,
            bound="a free port of this machine",
        ) from error
