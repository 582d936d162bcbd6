"""HTTP without input and output: what is sent, what an answer means, and when to ask again. Both clients share it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from latentd_client.errors import ClientError, Refused, Unreachable
from latentd_client.records import Problem
from latentd_client.version import __version__

SERVER = "http://127.0.0.1:8000"
AGAIN = frozenset({429, 502, 503, 504})  # busy, away, or a proxy that found nobody
GONE = 410
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0

Read = TypeVar("Read")


@dataclass(frozen=True)
class Call:
    """One request, which may be sent any number of times."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def connection(server: str | None, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """Return what an httpx client is made with; the environment stands in for what isn't given.

    Raises:
        ClientError: the address or the key can be none.
    """
    key = (api_key if api_key is not None else os.environ.get("LATENTD_API_KEY", "")).strip()  # files end in newlines
    if not (key.isascii() and key.isprintable()):
        raise ClientError("the API key has characters that no key has: is it the whole key, and nothing else?")
    headers = {"User-Agent": f"latentd-client/{__version__}"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    base = server or os.environ.get("LATENTD_SERVER") or SERVER
    if not _is_address(base):
        raise ClientError(f"{base!r} is no address of a service; one is {SERVER!r}")
    # Each event stream holds one while it runs.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    # The storage may be elsewhere; httpx sends no key to another host.
    return {"base_url": base, "headers": headers, "timeout": timeout_s, "follow_redirects": True, "limits": limits}


def _is_address(base: str) -> bool:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


class Patience:
    """How long one call is tried, in seconds, and how long to pause before the next time.

    `refused_s` is how long where there is no connection at all, until the first sign that somebody is there.
    """

    def __init__(self, seconds: float, refused_s: float) -> None:
        self._began = time.monotonic()
        self._seconds = seconds
        self._refused_s = refused_s
        self._tries = 0

    def after_failure(self, error: httpx.RequestError) -> float:
        """Return the pause after no answer, or one that can't be unpacked.

        Raises:
            Unreachable: patience is over, or would not help.
        """
        if isinstance(error, httpx.TooManyRedirects):
            raise Unreachable(f"{error.request.url}: redirects without an end; is it latentd's address?") from error
        pause = self._pause()
        refused = isinstance(error, httpx.ConnectError)
        if not refused:
            self._refused_s = self._seconds
        seconds = self._refused_s if refused else self._seconds
        if self._elapsed_s + pause <= seconds:
            return pause
        if refused:
            raise Unreachable(f"no connection in {seconds:g} s ({error}); does latentd run there?") from error
        raise Unreachable(f"no answer in {seconds:g} s: {type(error).__name__} {error}".rstrip()) from error

    def after(self, answer: httpx.Response) -> float | None:
        """Return the pause before asking again, None where the answer holds.

        Raises:
            Refused: it is a problem, or one that would pass, but not in time.
            Unreachable: the service is elsewhere.
        """
        self._refused_s = self._seconds
        if answer.is_success:
            return None
        if answer.has_redirect_location:
            there = answer.headers["Location"]
            raise Unreachable(f"{answer.request.url} answers with a redirect to {there}: use the address of that")
        if answer.status_code in AGAIN:
            pause = _told(answer) or self._pause()
            if self._elapsed_s + pause <= self._seconds:
                return pause
        raise Refused(_problem(answer))

    def renew(self) -> None:
        """Begin anew: somebody was there until now, however little there was to say."""
        self._began = time.monotonic()
        self._tries = 0

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _pause(self) -> float:
        self._tries += 1
        # Apart by chance, so that clients that failed together don't come back together.
        return min(FIRST_PAUSE_S * 2.0**self._tries, LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)


def document(answer: httpx.Response) -> dict[str, Any]:
    """Read the JSON object of an answer that holds.

    Raises:
        Unreachable: it has none, so that what answers is no latentd.
    """
    try:
        value = answer.json()
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    raise _stranger(answer)


def read(answer: httpx.Response, of: Callable[[dict[str, Any]], Read]) -> Read:
    """Make of an answer's JSON what it is expected to be.

    Raises:
        Unreachable: it is something else, so that what answers is no latentd.
    """
    try:
        return of(document(answer))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _stranger(answer) from error


def check_type(answer: httpx.Response, kind: str) -> None:
    """Raises Unreachable where an answer's content type doesn't begin with `kind`: what answers is no latentd."""
    if not answer.headers.get("Content-Type", "").lower().startswith(kind):
        raise _stranger(answer)


def _stranger(answer: httpx.Response) -> Unreachable:
    found = answer.headers.get("Content-Type", "no content type")
    return Unreachable(f"{answer.request.url} answered {answer.status_code} with {found}: is it latentd's address?")


@contextmanager
def gone_is_well() -> Iterator[None]:
    """Take for done what was to be removed and isn't there: the answer to a try before may have been lost."""
    try:
        yield
    except Refused as refused:
        if refused.problem.status != GONE:
            raise


def _told(answer: httpx.Response) -> float | None:
    seconds = answer.headers.get("Retry-After", "")
    return float(seconds) if seconds.isdigit() else None


def _problem(answer: httpx.Response) -> Problem:
    try:
        raw = answer.json()
    except ValueError:
        raw = None
    raw = raw if isinstance(raw, dict) else {}  # a proxy's page
    told = raw.get("detail") or raw.get("title") or raw.get("message")  # the last is others', as a Kubernetes ingress
    detail = told or f"{answer.status_code} {answer.reason_phrase} from {answer.request.url}"
    return Problem.of(raw | {"status": answer.status_code, "detail": detail})
