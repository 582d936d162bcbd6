"""Who waits for jobs to end is told by one subscription of the gateway, however many wait and however many steps pass.

Messages are hints: one that is lost costs whoever waits a second, never the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contract.redis_keys import ENDED_CHANNEL

AGAIN_S = 1.0  # after Redis was away
QUIET_S = 15.0  # before Redis is asked whether it is there: a host that is gone closes no connection

log = structlog.get_logger("service")


class Waiters:
    """Jobs that somebody waits for."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._watched: dict[str, list[asyncio.Event]] = {}

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set when the job ends, and may be set by chance; look at the job after entering."""
        told = asyncio.Event()
        self._watched.setdefault(job_id, []).append(told)
        try:
            yield told
        finally:
            others = [each for each in self._watched.pop(job_id) if each is not told]
            if others:
                self._watched[job_id] = others

    async def run(self) -> None:
        """Listen until cancelled; while Redis is away nobody is told."""
        while True:
            try:
                await self._listen()
            except RedisError as error:
                log.debug("ends aren't told: redis is away", error=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as messages:
            await messages.subscribe(ENDED_CHANNEL)
            asked = False
            while True:
                began = time.monotonic()
                message = await messages.get_message(timeout=QUIET_S)
                if message is not None:
                    self._tell(message["data"])
                # None at once is what redis-py makes of a confirmation, and of the answer to a ping.
                silent = message is None and time.monotonic() - began > QUIET_S / 2
                if silent and asked:
                    raise RedisTimeoutError(f"no answer to a ping for {QUIET_S:g} s")
                if silent:
                    await messages.ping()
                asked = silent

    def _tell(self, job_id: str) -> None:
        for told in self._watched.get(job_id, ()):
            told.set()


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, or `seconds` have passed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
