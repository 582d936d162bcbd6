"""Which names the gateway answers to: DNS rebinding ends here."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from core.errors import Forbidden
from core.settings import Settings
from service.http.problems import shown


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def check_host(headers: Headers, settings: Settings) -> None:
    """Check that the gateway answers to the Host that was sent.

    Raises:
        Forbidden: it isn't loopback, the address listened on or one of LATENTD_ALLOWED_HOSTS.
    """
    sent = headers.get("host", "")
    try:
        name = urlsplit(f"//{sent}").hostname or ""
    except ValueError:
        name = ""
    known = {host.lower() for host in (*settings.allowed_hosts, settings.host)}
    if not (is_loopback(name) or (name and name in known)):
        detail = f"host {shown(sent)!r} is not served; add it to LATENTD_ALLOWED_HOSTS"
        raise Forbidden(detail, field="Host", value=sent, bound="loopback or LATENTD_ALLOWED_HOSTS")
