"""API keys: made, listed and revoked in Redis alone; what a key may do, how often, how much it may compute, until when.

A key is 256 random bits, so that one SHA-256 is enough at rest: there is nothing to guess. Keys are asked for on other
addresses than loopback and wherever one was ever made (revoked ones count: revoking the last key opens nothing).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter
from redis import Redis

from contract.redis_keys import KEYS_KEY
from core.clock import CLOCK
from core.errors import NotFound

Scope: TypeAlias = Literal["generate", "read", "metrics", "admin"]

PREFIX = "lat"
SECRET_BYTES = 32

_SCOPES: TypeAdapter[tuple[Scope, ...]] = TypeAdapter(tuple[Scope, ...])


class ApiKey(BaseModel):
    """What is kept of a key: never the secret itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str
    scopes: tuple[Scope, ...]
    digest: str
    created_at: datetime
    requests_per_minute: int | None = None
    gpu_s_per_day: float | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Tell whether the key has the scope; admin has all."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def accepted(self) -> bool:
        """Whether the key lets anyone in: it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or CLOCK.now() < self.expires_at)

    def accepts(self, secret: str) -> bool:
        """Tell whether this is the key's secret, compared in constant time, and it is accepted."""
        return hmac.compare_digest(self.digest, digest_of(secret)) and self.accepted


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def split(token: str) -> tuple[str, str] | None:
    """Split `lat_<id>_<secret>` into key id and secret; None for any other text."""
    prefix, _, rest = token.partition("_")
    key_id, _, secret = rest.partition("_")
    return (key_id, secret) if prefix == PREFIX and key_id and secret else None


def parse_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """Check names of scopes.

    Raises:
        ValidationError: one is no scope.
    """
    return _SCOPES.validate_python(tuple(names))


def create(
    redis: Redis,
    name: str,
    scopes: Sequence[Scope],
    requests_per_minute: int | None = None,
    gpu_s_per_day: float | None = None,
    lifetime: timedelta | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; its token is seen here and never again."""
    CLOCK.sync(redis)
    now = CLOCK.now()
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(
        id=key_id,
        name=name,
        scopes=tuple(dict.fromkeys(scopes)),
        digest=digest_of(secret),
        created_at=now,
        requests_per_minute=requests_per_minute,
        gpu_s_per_day=gpu_s_per_day,
        expires_at=None if lifetime is None else now + lifetime,
    )
    redis.hset(KEYS_KEY, key_id, key.model_dump_json())
    return key, f"{PREFIX}_{key_id}_{secret}"


def all_keys(redis: Redis) -> list[ApiKey]:
    """Return every key ever made, oldest first."""
    found = [ApiKey.model_validate_json(text, extra="ignore") for text in redis.hvals(KEYS_KEY)]
    return sorted(found, key=lambda key: key.created_at)


def revoke(redis: Redis, key_id: str) -> ApiKey:
    """Refuse the key from now on; its jobs stay and only admin keys see them.

    Raises:
        NotFound: there is no such key.
    """
    text = redis.hget(KEYS_KEY, key_id)
    if text is None:
        raise NotFound(f"no key {key_id!r}; `latentd keys list` shows them", field="id", value=key_id)
    key = ApiKey.model_validate_json(text, extra="ignore")
    if key.revoked_at is None:
        CLOCK.sync(redis)
        key = key.model_copy(update={"revoked_at": CLOCK.now()})
        redis.hset(KEYS_KEY, key_id, key.model_dump_json())
    return key


def remove_all(redis: Redis) -> int:
    """Forget every key, so that a gateway on loopback asks for none, and return how many there were."""
    count = int(redis.hlen(KEYS_KEY))
    redis.delete(KEYS_KEY)
    return count
