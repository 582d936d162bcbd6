"""The worker's connection to Redis, and when to try again while Redis is away: computing goes on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from core.redis_errors import forget_replica, is_transient
from jobs.worker import ANSWER_S

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0

T = TypeVar("T")
log = structlog.get_logger()


def connect(url: str) -> Redis:
    """Make a client that reconnects once by itself (a restarted Redis) and otherwise raises within `ANSWER_S`."""
    retry = Retry(ConstantBackoff(0.02), 1)
    return Redis.from_url(url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=retry)


class CircuitBreaker:
    """Runs Redis work unless Redis is away; after a failure it waits 0.1 s, doubling to 2 s, before the next try.

    The connections of `redis` to a server that has become a replica are dropped: the next ask its address anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, redis: Redis | None = None) -> None:
        self._clock = clock
        self._redis = redis
        self._wait = 0.0
        self._next_try = 0.0

    @property
    def away(self) -> bool:
        """Whether the last try failed and the next isn't due."""
        return self._clock() < self._next_try

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Do `work` and return what it did; None if Redis is away, before or during it. Other Redis errors are raised.

        Raises:
            RedisError: for an error that Redis answered, which is a mistake of ours.
        """
        if self.away:
            return None
        try:
            done = work()
        except RedisError as error:
            if not is_transient(error):
                raise
            self._lost(error)
            return None
        self._wait = 0.0
        return done

    def _lost(self, error: RedisError) -> None:
        if not self._wait:
            log.warning("redis is away", error=str(error))
        if self._redis is not None:
            forget_replica(self._redis, error)
        self._wait = min(self._wait * 2 or FIRST_WAIT_S, LONGEST_WAIT_S)
        self._next_try = self._clock() + self._wait
