"""Which pages may change something: the service's own alone."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers

from core.errors import Forbidden
from service.http.problems import shown

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_origin(method: str, headers: Headers) -> None:
    """Check that a request which changes something comes from no page of another origin.

    Raises:
        Forbidden: it does.
    """
    origin = headers.get("origin")
    if method in SAFE_METHODS or origin is None:
        return
    if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        detail = f"origin {shown(origin)!r} may not change anything here"
        raise Forbidden(detail, field="Origin", value=origin, bound="the service's own origin")
