"""Which names the gateway answers to: DNS rebinding ends here."""

from __future__ import annotations

import ipaddress
from collections.abc import Set
from functools import lru_cache

from starlette.datastructures import Headers

from core.errors import Forbidden
from core.origins import host_name, parse_authority
from core.settings import Settings
from service.http.problems import shown

OPEN_TO_ANY = frozenset({"/livez", "/readyz"})  # health checks ask by an address that no setting knows


@lru_cache(maxsize=256)
def in_url(host: str) -> str:
    """Return a host as URLs have it."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_private(settings: Settings) -> bool:
    """Tell whether only this machine reaches the gateway: by the address listened on, and by no proxy's."""
    public = settings.public_origin
    return is_loopback(settings.host) and (public is None or is_loopback(public.host))


def known_hosts(settings: Settings) -> Set[str]:
    """Collect the names that the gateway answers to beside loopback."""
    public = settings.public_origin
    named = (*settings.allowed_hosts, *([public.host] if public else []))
    return frozenset({*named, host_name(settings.host) or settings.host})


@lru_cache(maxsize=256)
def named_host(sent: str) -> str | None:
    """Read the host of a `Host` header; None for what can be none."""
    authority = parse_authority("http", sent)
    return None if authority is None else authority.host


def check_host(path: str, headers: Headers, known: Set[str]) -> None:
    """Check that the gateway answers to the Host that was sent.

    Raises:
        Forbidden: it isn't loopback, the address listened on, the public one or one of LATENTD_ALLOWED_HOSTS.
    """
    sent = headers.get("host", "")
    host = named_host(sent)
    served = host is not None and (is_loopback(host) or host in known)
    if not served and path not in OPEN_TO_ANY:
        detail = f"host {shown(sent)!r} is not served; add it to LATENTD_ALLOWED_HOSTS"
        raise Forbidden(detail, field="Host", value=sent, bound="loopback or LATENTD_ALLOWED_HOSTS")
