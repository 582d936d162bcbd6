"""Who asks: keys, scopes and rates, checked before a request's body is read; what each caller may see."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.datastructures import Headers
from starlette.types import Scope as AsgiScope

from contract.redis_keys import KEYS_KEY, rate_key
from core.errors import Forbidden, NotFound, RateLimited, Unauthorized
from core.redis_errors import is_transient
from core.single_flight import SingleFlight
from service.auth.keys import ApiKey, Scope, split
from service.auth.signing import PLAIN, ImageUrls, Signer, read_signer
from service.http.origins import SAFE_METHODS

_BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)
_BASIC = re.compile(r"Basic +(\S+)", re.IGNORECASE)
_BY_PASSWORD = ("/sdapi/", "/internal/")  # the web UI's clients know no other way
_IMAGE = "/v1/images/"

# Generic cell rate algorithm: one number a key, when its allowance is whole again. A burst of one minute's requests.
# KEYS: rate. ARGV: requests a minute. Answers 0, or the seconds to wait.
_TAKE = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local each = 60 / ARGV[1]
local whole = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
if whole > now + 120 then whole = now end -- Redis's clock was set back: a minute ahead is the most that is owed
local over = whole + each - now - 60
if over > 1e-6 then return tostring(over) end
redis.call('DEL', KEYS[1]) -- a full Redis takes a write only behind one that needs no memory: reads go on there
redis.call('SET', KEYS[1], string.format('%.6f', whole + each), 'EX', 61)
return '0'
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Without keys everyone sees everything; `urls` are of images, signed where keys are on."""

    key: ApiKey | None = None
    urls: ImageUrls = PLAIN

    @property
    def owner(self) -> str:
        """To whom the caller's new jobs belong."""
        return "" if self.key is None else self.key.id

    @property
    def listed(self) -> str:
        """Whose jobs a list shows; empty: all."""
        return "" if self.key is None or self.key.may("admin") else self.key.id

    def check_reads(self) -> None:
        """Check that the caller may be answered an image.

        Raises:
            Forbidden: its key lacks the scope `read`.
        """
        if self.key is not None and not self.key.may("read"):
            raise _lacks(self.key, "read")

    def sees(self, owner: str) -> bool:
        """Tell whether jobs of `owner` exist for this caller."""
        return self.key is None or self.key.may("admin") or self.key.id == owner


def _lacks(key: ApiKey, scope: Scope) -> Forbidden:
    detail = f"key {key.id} has the scopes {', '.join(key.scopes)}; this needs {scope}"
    return Forbidden(detail, field="Authorization", value=key.id, bound=scope)


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a call needs."""
    if path == "/metrics":
        return "metrics"
    return "read" if method in SAFE_METHODS else "generate"


async def authorize(
    redis: Redis, keys_made: SingleFlight[bool], asked: AsgiScope, headers: Headers, *, required: bool, prefix: str
) -> Caller:
    """Find out who sends a request; `prefix` is the path of the public URL.

    Raises:
        Unauthorized: keys are on and none that is known was sent.
        Forbidden: the key lacks the scope; a signed URL expired or was changed.
        RateLimited: the key's requests a minute are used up.
    """
    token = _token(headers, asked["path"])
    made, key = (await keys_made.answer(), None) if token is None else await _look_up(redis, token)
    if not (required or made):
        return Caller(urls=ImageUrls(prefix))
    if token is None and _carries_signature(asked):
        return Caller(urls=ImageUrls(prefix, await _check_signature(redis, asked)))
    if key is None:
        raise Unauthorized(_missing(token), field="Authorization", bound="Bearer lat_…")
    scope = scope_of(asked["method"], asked["path"])
    if not key.may(scope):
        raise _lacks(key, scope)
    await _take(redis, key)
    signer = await read_signer(redis) if key.may("read") else None  # a signed URL would let it read the image
    return Caller(key, ImageUrls(prefix, signer))


def _token(headers: Headers, path: str) -> str | None:
    """Return the token as sent, bearer or, to the web UI's paths, the password; None without the header."""
    sent = headers.get("authorization")
    if sent is None:
        return None
    if path.startswith(_BY_PASSWORD) and (basic := _BASIC.fullmatch(sent.strip())) is not None:
        return _password(basic[1])
    found = _BEARER.fullmatch(sent.strip())
    return found[1] if found else ""


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _missing(token: str | None) -> str:
    what = "no API key was sent" if token is None else "the API key isn't known, is revoked or has expired"
    return f"{what}; send `Authorization: Bearer <key>` (`latentd keys create` makes keys)"


async def _look_up(redis: Redis, token: str) -> tuple[bool, ApiKey | None]:
    """Read whether any key was ever made, and the key of this token."""
    key_id, secret = split(token) or ("", "")
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hlen(KEYS_KEY)
        pipe.hget(KEYS_KEY, key_id)
        made, text = await pipe.execute()
    key = ApiKey.model_validate_json(text, extra="ignore") if text else None
    return bool(made), key if key is not None and key.accepts(secret) else None


def _carries_signature(asked: AsgiScope) -> bool:
    return asked["path"].startswith(_IMAGE) and asked["method"] in SAFE_METHODS and "signature" in _query(asked)


def _query(asked: AsgiScope) -> dict[str, list[str]]:
    return parse_qs(asked["query_string"].decode("latin-1"))


async def _check_signature(redis: Redis, asked: AsgiScope) -> Signer:
    """Return the signer, where it signed the URL of this very image."""
    signer, query = await read_signer(redis), _query(asked)
    signer.check(asked["path"].removeprefix(_IMAGE), query.get("expires", [""])[0], query["signature"][0])
    return signer


async def still_accepted(redis: Redis, caller: Caller) -> bool:
    """Tell whether the caller's key is still one that is let in: open answers ask again.

    It counts as one while Redis is away, where there is nothing to tell either.
    """
    if caller.key is None:
        return True
    try:
        key = await _key(redis, caller.key.id)
    except RedisError as error:
        if not is_transient(error):
            raise
        return True
    return key is not None and key.accepted


async def may_read(redis: Redis, owner: str) -> bool:
    """Tell whether the key that made a job is let in to read it."""
    key = await _key(redis, owner)
    return key is not None and key.accepted and key.may("read")


async def _key(redis: Redis, key_id: str) -> ApiKey | None:
    text = await redis.hget(KEYS_KEY, key_id)
    return None if text is None else ApiKey.model_validate_json(text, extra="ignore")


async def _take(redis: Redis, key: ApiKey) -> None:
    if key.requests_per_minute is None:
        return
    answer: Any = await redis.eval(_TAKE, 1, rate_key(key.id), key.requests_per_minute)
    if float(answer) > 0:
        detail = f"key {key.id} may send {key.requests_per_minute} requests a minute"
        raise RateLimited(detail, retry_after=math.ceil(float(answer)), field="Authorization", value=key.id)


def check_sees(caller: Caller, owner: str, job_id: str) -> None:
    """Check that a job is one of the caller's: another can't be told from one that never was.

    Raises:
        NotFound: it is somebody else's.
    """
    if not caller.sees(owner):
        raise NotFound(f"no job {job_id!r}", field="id", value=job_id)
