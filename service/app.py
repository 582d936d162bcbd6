"""The gateway: `create_app` wires it, `serve` listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import structlog
import uvicorn
from fastapi import Depends, FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.staticfiles import StaticFiles
from obstore.exceptions import BaseError
from obstore.store import S3Store
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from contract.redis_keys import KEYS_KEY
from core.clock import CLOCK, SYNC_S
from core.errors import ConfigurationError
from core.listen import listen
from core.settings import Settings
from core.storage import open_store, told
from core.version import __version__
from jobs.deployment import Witness, claim
from jobs.layout import check_layout
from service.compat.install import install as install_compat
from service.http import handlers
from service.http.hosts import in_url, is_loopback, is_private
from service.http.middleware import EdgeMiddleware
from service.http.protocol import HEAD_BYTES, PatientProtocol
from service.routes import addons, document, health, images, jobs, metrics, models, openapi, tasks
from service.routes.caller import current_caller
from service.routes.metrics_port import listen_for_metrics, metrics_port
from service.state import ANSWER_S, CONNECT_S, Gateway, open_gateway
from service.webhooks.outbox import Webhooks
from service.webhooks.send import read_secret

KEEP_ALIVE_S = 75  # longer than proxies keep idle connections: who closes last loses no request
STOP_S = 5  # how long open answers may go on after a signal
CANCEL_S = 1  # after which work that goes on is cancelled again

log = structlog.get_logger("service")


def create_app(settings: Settings, *, insecure: bool = False) -> FastAPI:
    """Wire the whole application; it connects to Redis with the first request that needs it.

    API keys are asked for once one was ever made, and always where others reach the gateway unless `insecure`.

    Raises:
        ConfigurationError: webhooks may be sent, but there is no secret to sign them with; LATENTD_METRICS_PORT is
            taken.
    """
    gateway = open_gateway(settings, keys_required=not (insecure or is_private(settings)))
    secret = read_secret(settings) if settings.webhook_allow else None
    metrics_socket = listen_for_metrics(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with (
            metrics_port(gateway, metrics_socket),
            background(gateway.waiters.run()),
            background(send_webhooks(gateway, secret)),
            background(keep_time(gateway.redis)),
        ):
            yield
        await gateway.close()

    app = FastAPI(
        title="latentd",
        version=__version__,
        summary="Prompts, masks and small pictures in, images out.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would say http:// behind a proxy; see service.http.targets
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.gateway = gateway
    for routes in (tasks, jobs, images, models, addons, metrics, document):  # as often as they are asked for
        app.include_router(routes.router, dependencies=[Depends(current_caller)])
    app.include_router(health.router)
    for folder in ("css", "js"):  # most of what the page loads first
        files = StaticFiles(directory=health.STATIC / folder, check_dir=False)
        app.mount(f"/{folder}", GZipMiddleware(files), name=folder)
    app.frontend("/", directory=health.STATIC, fallback=None, check_dir=False)
    handlers.install(app)
    install_compat(app)
    openapi.install(app, settings.public_path)
    app.add_middleware(EdgeMiddleware, settings=settings, counts=gateway.metrics, stopping=gateway.stopping)
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
        ConfigurationError: others reach it while no key exists, without `insecure`; jobs of another
            release in Redis.
    """
    check_redis(settings)
    if not is_private(settings) and not insecure:
        check_keys_exist(settings)
    with listen(settings.host, settings.port, "LATENTD_PORT") as listening:
        config = configure(create_app(settings, insecure=insecure))
        log.info("ready", url=f"http://{in_url(settings.host)}:{listening.getsockname()[1]}")
        with _witness(settings):
            Server(config).run(sockets=[listening])


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out what the middleware has told of an answer that it broke off."""
    return record.msg != "ASGI callable returned without completing response."


def configure(app: FastAPI) -> uvicorn.Config:
    """Configure how the application is served: bounded heads, patience that ends, logs by the middleware alone."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_config=None,  # those of core.logs
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing asks for the client's address or scheme
        timeout_graceful_shutdown=STOP_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )


def check_redis(settings: Settings) -> None:
    """Check a Redis and its storage; one that isn't there yet is looked at when it is.

    Raises:
        ConfigurationError: it is of another release; other processes use another storage.
    """
    try:
        with Redis.from_url(settings.redis, socket_connect_timeout=CONNECT_S, retry=Retry(NoBackoff(), 0)) as redis:
            check_layout(redis)
            _check_folder(settings, redis)
    except RedisError as error:
        log.warning("redis is away", error=str(error))


def _check_folder(settings: Settings, redis: Redis) -> None:
    store = open_store(settings.storage)
    if isinstance(store, S3Store):  # one that is away takes its time to say so
        return
    try:
        claim(settings, redis, store)
    except (BaseError, OSError) as error:
        log.warning("the storage can't be read yet", error=told(error))


@contextmanager
def _witness(settings: Settings) -> Iterator[None]:
    """Tell others that the storage is in use, until the block ends."""
    redis = Redis.from_url(settings.redis, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S)
    witness = Witness(settings, redis, open_store(settings.storage))
    witness.start()
    try:
        yield
    finally:
        witness.stop()


def check_keys_exist(settings: Settings) -> None:
    """Check that somebody could get in: an address that others reach would let nobody in without a key.

    Raises:
        ConfigurationError: no key was ever made.
    """
    try:
        with Redis.from_url(settings.redis) as redis:
            made = redis.exists(KEYS_KEY)
    except RedisError as error:  # started before its Redis: closed to all until that answers
        log.warning("keys can't be read yet; every call needs one", error=str(error))
        return
    if not made:
        listens = not is_loopback(settings.host)
        variable, value = ("LATENTD_HOST", settings.host) if listens else ("LATENTD_PUBLIC_URL", settings.public_url)
        raise ConfigurationError(
            f"{variable}={value} is reachable by others and there is no API key: make one by `latentd keys create NAME`"
            " (where only `latentd up` has the Redis: while that runs on 127.0.0.1 without LATENTD_PUBLIC_URL), or"
            " pass --insecure to let everyone in",
            field=variable,
            value=value,
            bound="a loopback address, an API key, or --insecure",
        )


@asynccontextmanager
async def background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do `work` until the block ends.

    It is cancelled until it has ended: Python 3.11's `wait_for`, by which redis-py sends, takes a cancellation that
    comes as it is done for nothing, and a gateway that waited for such work would never stop.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_S)


async def keep_time(redis: AsyncRedis) -> None:
    """Ask Redis for the time again and again; while it is away, the last answer counts on."""
    while True:
        asked = CLOCK.asked()
        try:
            CLOCK.told(asked, await redis.time())
        except RedisError as error:
            log.debug("the time isn't told: redis is away", error=str(error))
        await asyncio.sleep(SYNC_S)


async def send_webhooks(gateway: Gateway, secret: bytes | None) -> None:
    """Send webhooks, where they are allowed at all."""
    if secret is not None:
        settings = gateway.settings
        allow, retention_s, prefix = settings.webhook_allow, settings.retention_s, settings.public_path
        webhooks = Webhooks(gateway.redis, gateway.backlogs, secret, allow, retention_s, prefix=prefix)
        await webhooks.run()
