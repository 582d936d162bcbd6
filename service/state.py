"""What every route of one gateway process shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, TypeAlias

from fastapi import Depends, Request
from obstore.store import S3Store
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.retry import Retry

from contract.card import ControlNetCard, EmbeddingCard, LoraCard
from contract.redis_keys import CONTROLNETS_KEY, EMBEDDINGS_KEY, KEYS_KEY, LORAS_KEY
from core.settings import Settings
from core.single_flight import SingleFlight
from core.storage import Store, free_mb, open_public, open_store
from jobs.layout import check_connection
from service.admission.backlogs import Backlogs
from service.admission.retry_after import FullLanes
from service.jobs.streams import OpenStreams
from service.jobs.waiting import Waiters
from service.metrics.families import Metrics
from service.requests.cards import (
    CardRegistry,
    Registry,
    installed_controlnets,
    installed_embeddings,
    installed_loras,
)
from service.requests.decoders import Decoders

# Every event stream takes one connection.
MAX_CONNECTIONS = 8192
CONNECT_S = 5.0
# A disk that others write to can keep a server that syncs each write for seconds: a late answer is worth more to a
# client than a 503 that can't say whether the job was made.
ANSWER_S = 15.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """Connections and shared state; `redis` answers str, `rq` bytes (RQ's hashes hold compressed data)."""

    settings: Settings
    redis: AsyncRedis
    rq: Redis
    store: Store
    room: SingleFlight[int | None]  # MiB that are free there; a mount that hangs holds one thread
    cards: CardRegistry
    loras: Registry[LoraCard]
    embeddings: Registry[EmbeddingCard]
    controlnets: Registry[ControlNetCard]
    backlogs: Backlogs
    full_lanes: FullLanes
    waiters: Waiters
    keys_made: SingleFlight[bool]  # whether any API key was ever made
    metrics: Metrics
    public: S3Store | None  # signs URLs of images, where clients may fetch them from the storage
    streams: OpenStreams
    keys_required: bool  # as others reach the gateway; once a key was made they are anyway
    prefix: str  # the path of LATENTD_PUBLIC_URL
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    decoders: Decoders = field(default_factory=Decoders)

    async def forget_connections(self) -> None:
        """Drop idle connections to a Redis that has become a replica: the next ask its address anew."""
        await self.redis.connection_pool.disconnect(inuse_connections=False)
        self.rq.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        self.stopping.set()
        self.decoders.close()
        await self.redis.aclose()
        self.rq.close()


def open_gateway(settings: Settings, *, keys_required: bool) -> Gateway:
    """Connect lazily: a gateway starts and answers 503 problems while Redis is away."""
    redis = AsyncRedis.from_url(
        settings.redis,
        decode_responses=True,
        max_connections=MAX_CONNECTIONS,
        redis_connect_func=check_connection,
        socket_connect_timeout=CONNECT_S,
        socket_timeout=ANSWER_S,
    )
    retry = Retry(NoBackoff(), 1)
    rq = Redis.from_url(settings.redis, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S, retry=retry)
    store = open_store(settings.storage)
    public = None
    if settings.storage_public_url is not None:
        public = open_public(settings.storage, settings.storage_public_url)
    folder, backlogs = settings.models_dir, Backlogs(redis)

    async def any_key() -> bool:
        return bool(await redis.hlen(KEYS_KEY))

    return Gateway(
        settings=settings,
        redis=redis,
        rq=rq,
        store=store,
        room=SingleFlight(partial(asyncio.to_thread, free_mb, store)),
        cards=CardRegistry(redis, folder, settings.model),
        loras=Registry(redis, LORAS_KEY, LoraCard, partial(installed_loras, folder)),
        embeddings=Registry(redis, EMBEDDINGS_KEY, EmbeddingCard, partial(installed_embeddings, folder)),
        controlnets=Registry(redis, CONTROLNETS_KEY, ControlNetCard, partial(installed_controlnets, folder)),
        backlogs=backlogs,
        full_lanes=FullLanes(redis, backlogs),
        waiters=Waiters(redis),
        keys_made=SingleFlight(any_key),
        metrics=Metrics(),
        public=public,
        streams=OpenStreams(settings.event_streams),
        keys_required=keys_required,
        prefix=settings.public_path,
    )


async def current(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway  # async: FastAPI would give a plain function a thread
    return gateway


Current: TypeAlias = Annotated[Gateway, Depends(current)]
