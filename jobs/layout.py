"""Which release's jobs a Redis holds: what this release can't read is refused whole, never half read.

The layout is the contract version of the newest release that has used the Redis. A release N reads what N−1 left and
works beside it while it rolls out, so N−1 in its turn bears N.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import structlog
from redis import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from contract.base import CONTRACT_VERSION, CONTRACTS_READ
from contract.redis_keys import JOBS_KEY, LAYOUT_KEY
from core.clock import CLOCK
from core.errors import ConfigurationError, Unavailable
from core.redis_errors import is_transient
from core.text import as_text

OLDEST = (7, 0)
KEEPS = "noeviction"
_OLDEST_TOLD = "Redis 7.0, Valkey 7.2, or newer"
log = structlog.get_logger()
NEWEST_BESIDE = CONTRACT_VERSION + 1
# In one step: between two, a new Redis would get its layout and first job, which would seem a job without a layout.
_LOOK = "return {redis.call('GET', KEYS[1]), redis.call('EXISTS', KEYS[2])}"


class LayoutRefused(Unavailable, RedisError):
    """The Redis that answers holds jobs of a release that this one doesn't read: as good as none."""


def check_layout(redis: Redis) -> None:
    """Take a Redis for this release.

    Raises:
        ConfigurationError: it is too old, refuses us, or holds jobs of a release that this one doesn't read; the line
            says what to do.
        RedisError: if Redis is away.
    """
    check_version(redis)
    CLOCK.sync(redis)
    if policy := evicting(redis):
        log.warning("Redis may evict jobs: set maxmemory-policy to noeviction", maxmemory_policy=policy)
    found, jobs = redis.eval(_LOOK, 2, LAYOUT_KEY, JOBS_KEY)
    version = _version(found)
    if jobs and (refusal := _refusal(version)):
        raise ConfigurationError(refusal, field="REDIS_URL", value=version, bound=sorted(CONTRACTS_READ))
    if version < CONTRACT_VERSION or not jobs:
        redis.set(LAYOUT_KEY, CONTRACT_VERSION)


def check_version(redis: Redis) -> None:
    """Check that a Redis lets us in and is new enough.

    Raises:
        ConfigurationError: it doesn't, or isn't.
        RedisError: if Redis is away.
    """
    if old := too_old(_greeting(redis)):
        raise ConfigurationError(old, field="REDIS_URL", bound=_OLDEST_TOLD)


def evicting(redis: Redis) -> str | None:
    """The policy by which Redis may remove keys once its memory is full; None where it refuses writes, or doesn't say.

    Raises:
        RedisError: if Redis is away.
    """
    try:
        return evicting_policy(redis.info("memory"))
    except NoPermissionError:
        return None


def evicting_policy(memory: Mapping[str, object]) -> str | None:
    """The same from an answer to INFO memory."""
    policy = str(memory.get("maxmemory_policy", KEEPS))
    return None if policy == KEEPS else policy


def _greeting(redis: Redis) -> object:
    """What the server tells of itself; nothing if it is too old to greet.

    Raises:
        ConfigurationError: it refuses the user or password.
        RedisError: if Redis is away.
    """
    try:
        return redis.execute_command("HELLO")  # type: ignore[no-untyped-call]  # redis-py types it nowhere
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        detail = f"Redis refuses the user or password of REDIS_URL: {error}"
        raise ConfigurationError(detail, field="REDIS_URL", bound="a user that may use every command") from error
    except ResponseError as error:
        if is_transient(error):
            raise
        return {}


def too_old(greeting: object) -> str | None:
    """The line about a server before 7.0, by its answer to HELLO; None for one that is new enough."""
    if isinstance(greeting, list):  # RESP2: names and values in turn
        greeting = dict(zip(greeting[::2], greeting[1::2], strict=False))
    told = {as_text(name): value for name, value in greeting.items()} if isinstance(greeting, dict) else {}
    shown = as_text(told.get("version", b"5 or older"))
    found = re.match(r"(\d+)\.(\d+)", shown)
    if found and (int(found[1]), int(found[2])) >= OLDEST:
        return None
    return f"Redis is version {shown}: must be {_OLDEST_TOLD}"


async def check_connection(connection: AbstractConnection) -> None:
    """Greet a Redis as a client does, then refuse one that this release doesn't read.

    A gateway starts before its Redis and outlives it, so each new connection looks.

    Raises:
        LayoutRefused: it is too old, or holds jobs of another release.
        RedisError: it doesn't answer.
    """
    await connection.on_connect_check_health(check_health=True)
    if old := too_old(await _ask(connection, "HELLO")):
        raise LayoutRefused(old)
    asked = CLOCK.asked()
    CLOCK.told(asked, await _ask(connection, "TIME"))
    found, jobs = await _ask(connection, "EVAL", _LOOK, 2, LAYOUT_KEY, JOBS_KEY)
    if jobs and (refusal := _refusal(_version(found))):
        raise LayoutRefused(refusal)


async def _ask(connection: AbstractConnection, *command: str | int) -> Any:
    await connection.send_command(*command)
    answer: Any = await connection.read_response()
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
