"""Which release's jobs a Redis holds: what this release can't read is refused whole, never half read.

The layout is the contract version of the newest release that has used the Redis. A release N reads what N−1 left and
works beside it while it rolls out, so N−1 in its turn bears N.
"""

from __future__ import annotations

from redis import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from contract.base import CONTRACT_VERSION, CONTRACTS_READ
from contract.redis_keys import JOBS_KEY, LAYOUT_KEY
from core.errors import ConfigurationError, Unavailable
from core.text import as_text

NEWEST_BESIDE = CONTRACT_VERSION + 1


class LayoutRefused(Unavailable, RedisError):
    """The Redis that answers holds jobs of a release that this one doesn't read: as good as none."""


def check_layout(redis: Redis) -> None:
    """Take a Redis for this release.

    Raises:
        ConfigurationError: it holds jobs of a release that this one doesn't read; the line says what to do.
        RedisError: if Redis is away.
    """
    with redis.pipeline(transaction=False) as pipe:
        pipe.get(LAYOUT_KEY)
        pipe.exists(JOBS_KEY)
        found, jobs = pipe.execute()
    version = _version(found)
    if jobs and (refusal := _refusal(version)):
        raise ConfigurationError(refusal, field="REDIS_URL", value=version, bound=sorted(CONTRACTS_READ))
    if version < CONTRACT_VERSION or not jobs:
        redis.set(LAYOUT_KEY, CONTRACT_VERSION)


async def check_connection(connection: AbstractConnection) -> None:
    """Greet a Redis as a client does, then refuse one that this release doesn't read.

    A gateway starts before its Redis and outlives it, so each new connection looks.

    Raises:
        LayoutRefused: it holds jobs of another release.
        RedisError: it doesn't answer.
    """
    await connection.on_connect_check_health(check_health=True)
    version = _version(await _ask(connection, "GET", LAYOUT_KEY))
    if (refusal := _refusal(version)) and await _ask(connection, "EXISTS", JOBS_KEY):
        raise LayoutRefused(refusal)


async def _ask(connection: AbstractConnection, *command: str) -> bytes | str | int | None:
    await connection.send_command(*command)
    answer: bytes | str | int | None = await connection.read_response()
    return answer


def _version(found: bytes | str | int | None) -> int:
    """0: from before there were layouts, or from nobody."""
    text = as_text(found) if isinstance(found, bytes | str) else ""
    return int(text) if text.isdecimal() else 0


def _refusal(version: int) -> str | None:
    """The line about jobs of this layout; None if they can be read."""
    if version > NEWEST_BESIDE:
        return f"Redis holds jobs of a newer latentd (layout {version}, this is {CONTRACT_VERSION}): start that one"
    if version >= min(CONTRACTS_READ):
        return None
    whose = f"of layout {version}" if version else "from before 0.1.0"
    return (
        f"Redis holds jobs {whose}, which this latentd can't read (layout {CONTRACT_VERSION}): run the release that "
        "made them until GET /v1/jobs lists none, or start with another data directory or Redis"
    )
