"""One meaning of "Redis is away" for all processes: what ends by waiting, as opposed to a mistake of ours."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ExecAbortError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

# redis-py counts two kinds of refusal as lost connections that no waiting ends: a wrong password, a missing right.
_REFUSED = (AuthenticationError, AuthorizationError)
_AWAY = (RedisConnectionError, RedisTimeoutError, MasterDownError, OutOfMemoryError, ReadOnlyError)
# Of these the client knows no class: a script that runs too long, no room on disk, too few replicas, a blocked read
# during a change of master. The rest are reasons for which EXEC, refused itself, discards a transaction.
_CODES = frozenset({"BUSY", "MISCONF", "NOREPLICAS", "UNBLOCKED", "LOADING", "MASTERDOWN", "OOM", "READONLY"})
_IN_PIPELINE = " of pipeline caused error: "
_BY_EXEC = "Transaction discarded because of: "


def is_transient(error: RedisError) -> bool:
    """Whether the same call may succeed later: Redis is away, starting, busy, full or without its replicas."""
    if isinstance(error, _REFUSED):
        return False
    return isinstance(error, _AWAY) or (isinstance(error, ResponseError) and _code(error) in _CODES)


def is_read_only(error: RedisError) -> bool:
    """Whether the server is a replica by now: its address may name another, which open connections don't see."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and _code(error) == "READONLY")


def forget_replica(redis: Redis, error: RedisError) -> None:
    """Drop idle connections to a server that says it has become a replica: the next ask its address anew."""
    if is_read_only(error):
        redis.connection_pool.disconnect(inuse_connections=False)


def _code(error: ResponseError) -> str:
    """The server's code: the client keeps those that it has classes for, of others it is the text's first word."""
    said = str(error).rpartition(_IN_PIPELINE)[2].lstrip("('\"")
    if isinstance(error, ExecAbortError):
        said = said.removeprefix(_BY_EXEC)
    elif error.status_code:
        return error.status_code
    return said.partition(" ")[0]
