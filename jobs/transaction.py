"""Transactions over what another process may change meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from redis import Redis
from redis.client import Pipeline

T = TypeVar("T")


def transact(redis: Redis, watches: Sequence[str], body: Callable[[Pipeline], T]) -> T:
    """Run `body` under WATCH until its MULTI goes through: it reads, calls `pipe.multi()` and queues writes.

    A connection that is lost before the answer to EXEC has `body` look again, so it must recognise its own success.

    Raises:
        RedisError: if Redis stays away.
    """
    values: list[T] = []
    redis.transaction(lambda pipe: values.append(body(pipe)), *watches)
    return values[-1]
