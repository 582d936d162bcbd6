"""Which pages may change something: the service's own, and those of LATENTD_CORS_ORIGINS, which may read, too."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from core.errors import Forbidden
from core.origins import DEFAULT_PORTS, Origin, parse_authority, parse_origin
from core.settings import Settings
from service.http.problems import shown

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PREFLIGHT = {"Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE", "Access-Control-Max-Age": "600"}
_EXPOSED = "ETag, Idempotency-Replayed, Latentd-Seed, Latentd-Warnings, Location, Preference-Applied, Retry-After, "
_EXPOSED += "X-Request-ID, X-Should-Retry"


class OriginPolicy:
    """What a request's `Origin` may be, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self._public = settings.public_origin
        self._others = frozenset(parse_origin(each) for each in settings.cors_origins)
        self._proxies = [ipaddress.ip_network(each) for each in settings.trusted_proxies]

    def check(self, scope: Scope, headers: Headers) -> None:
        """Check that a request which changes something comes from no page of a foreign origin.

        Raises:
            Forbidden: it does.
        """
        sent = headers.get("origin")
        if scope["method"] in SAFE_METHODS or sent is None or self.other(headers) is not None:
            return
        own, origin = self.own(scope, headers), parse_origin(sent)
        if origin is None or origin != own:
            bound = "the service's own origin" if own is None else str(own)
            detail = f"origin {shown(sent)!r} may not change anything here; the service's own is {bound}"
            hint = "" if self._public else " (LATENTD_PUBLIC_URL names it behind a proxy)"
            raise Forbidden(detail + hint, field="Origin", value=sent, bound=bound)

    def other(self, headers: Headers) -> str | None:
        """Return the request's origin as it was sent, where it is one of LATENTD_CORS_ORIGINS."""
        sent = headers.get("origin") if self._others else None
        origin = None if sent is None else parse_origin(sent)
        return sent if origin is not None and origin in self._others else None

    def cors_headers(self, headers: Headers) -> dict[str, str]:
        """Make the headers that let a page of such an origin read the answer; none where no other origin is set."""
        if not self._others:
            return {}
        other = self.other(headers)
        if other is None:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": other,
            "Access-Control-Expose-Headers": _EXPOSED,
            "Cross-Origin-Resource-Policy": "cross-origin",
        }

    def preflight(self, scope: Scope, headers: Headers) -> dict[str, str] | None:
        """Make the answer's headers where a browser asks for a page of such an origin what it may send, else None.

        It may send any header: clients have their own (OpenAI's a dozen X-Stainless-*), and none gives a page more.
        """
        asks = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if not asks or self.other(headers) is None:
            return None
        wanted = headers.get("access-control-request-headers")
        return _PREFLIGHT if wanted is None else {**_PREFLIGHT, "Access-Control-Allow-Headers": wanted}

    def own(self, scope: Scope, headers: Headers) -> Origin | None:
        """Return the origin at which the client sees the service."""
        return self._public or parse_authority(self._scheme(scope, headers), headers.get("host", ""))

    def _scheme(self, scope: Scope, headers: Headers) -> str:
        told = headers.get("x-forwarded-proto", "").strip().lower()
        return told if told in DEFAULT_PORTS and self._is_trusted(scope) else str(scope["scheme"])

    def _is_trusted(self, scope: Scope) -> bool:
        client = scope.get("client")
        if not self._proxies or not client:
            return False
        address = ipaddress.ip_address(client[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((mapped or address) in network for network in self._proxies)
