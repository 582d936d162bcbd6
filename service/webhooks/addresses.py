"""Where webhooks may go: LATENTD_WEBHOOK_ALLOW, and addresses that aren't this network's own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from core.errors import InvalidRequest

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_TEXT = re.compile(r"[\x21-\x7e]+")
_PLAIN = "http://"


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A webhook's URL in parts; `path` carries the query."""

    host: str
    port: int
    path: str
    tls: bool

    @property
    def authority(self) -> str:
        """As the Host header names it."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def check_url(url: str, allow: Sequence[str]) -> WebhookTarget:
    """Split a webhook's URL into its parts.

    Raises:
        InvalidRequest: no http(s) URL, or one that the allow-list doesn't have.
    """
    parts = _split(url)
    host, tls = (parts.hostname or "").rstrip("."), parts.scheme == "https"
    if not any(_matches(host, entry, tls) for entry in allow):
        how = "" if tls or not any(_matches(host, entry, True) for entry in allow) else " over plain http"
        detail = f"webhook_url goes to {host!r}{how}, which LATENTD_WEBHOOK_ALLOW doesn't have"
        bound = f"hosts of LATENTD_WEBHOOK_ALLOW: {', '.join(allow) or 'none'}"
        raise InvalidRequest(detail, field="webhook_url", value=url, bound=bound)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return WebhookTarget(host, parts.port or (443 if tls else 80), path, tls)


def _split(url: str) -> SplitResult:
    bound = "an https URL of visible ASCII characters, without user and fragment"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not _TEXT.fullmatch(url) or "@" in parts.netloc or "#" in url:
        raise InvalidRequest(f"webhook_url must be {bound}", field="webhook_url", value=url, bound=bound)
    return parts


def _matches(host: str, entry: str, tls: bool) -> bool:
    """Tell whether an entry names this host: by name, by `*.` domain, or by network for a literal address."""
    name = entry.lower().removeprefix(_PLAIN)
    if not tls and not entry.lower().startswith(_PLAIN):
        return False
    network = _network(name)
    if network is not None:
        address = _literal(host)
        return address is not None and address in network
    return host == name or (name.startswith("*.") and host.endswith(name[1:]))


def _network(name: str) -> Network | None:
    try:
        return ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        return None


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_reachable(address: str, allow: Sequence[str]) -> bool:
    """Tell whether a resolved address may be connected to: a public one, or one of a network in the allow-list."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    networks = [_network(entry.lower().removeprefix(_PLAIN)) for entry in allow]
    if any(network is not None and parsed in network for network in networks):
        return True
    return parsed.is_global and not parsed.is_multicast and not _carries_ipv4(parsed)


def _carries_ipv4(address: Address) -> bool:
    """Tell whether a gateway may turn an IPv6 address into any IPv4 one: 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return False
    return address.sixtofour is not None or address.teredo is not None or address in _NAT64


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
