"""Where webhooks may go: LATENTD_WEBHOOK_ALLOW, and addresses that aren't this network's own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from core.errors import InvalidRequest
from core.origins import WebhookEntry, parse_webhook_entry

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_TEXT = re.compile(r"[\x21-\x7e]+")


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
        return name if self.port == _default_port(self.tls) else f"{name}:{self.port}"


def check_url(url: str, allow: Sequence[str]) -> WebhookTarget:
    """Split a webhook's URL into its parts.

    Raises:
        InvalidRequest: no http(s) URL, or one that the allow-list doesn't have.
    """
    parts = _split(url)
    host, tls = (parts.hostname or "").rstrip("."), parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = WebhookTarget(host, parts.port or _default_port(tls), path, tls)
    if not any(_matches(target, entry) for entry in _entries(allow)):
        detail = f"webhook_url goes to {_where(target, allow)}, which LATENTD_WEBHOOK_ALLOW doesn't have"
        bound = f"hosts of LATENTD_WEBHOOK_ALLOW: {', '.join(allow) or 'none'}"
        raise InvalidRequest(detail, field="webhook_url", value=url, bound=bound)
    return target


def _entries(allow: Sequence[str]) -> list[WebhookEntry]:
    return [entry for entry in map(parse_webhook_entry, allow) if entry is not None]


def _where(target: WebhookTarget, allow: Sequence[str]) -> str:
    """Name what of a target no entry has: its host, its port, or that it is plain."""
    entries = [entry for entry in _entries(allow) if _names(target.host, entry)]
    if not entries:
        return repr(target.host)
    if target.tls or any(entry.plain for entry in entries):
        return f"port {target.port} of {target.host!r}"
    return f"{target.host!r} over plain http"


def _default_port(tls: bool) -> int:
    return 443 if tls else 80


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


def _matches(target: WebhookTarget, entry: WebhookEntry) -> bool:
    """Tell whether an entry has this target: its scheme, its port and its host."""
    port = str(_default_port(target.tls)) if entry.port is None else entry.port
    return (target.tls or entry.plain) and port in ("*", str(target.port)) and _names(target.host, entry)


def _names(host: str, entry: WebhookEntry) -> bool:
    """Tell whether an entry names this host: by name, by `*.` domain, or by network for a literal address."""
    if entry.network is not None:
        address = _literal(host)
        return address is not None and address in entry.network
    return host == entry.name or (entry.name.startswith("*.") and host.endswith(entry.name[1:]))


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_reachable(address: str, port: int, allow: Sequence[str]) -> bool:
    """Tell whether an address may be connected to at a port: a public one, or one of a network in the allow-list whose
    entry names no other port."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    entries = [entry for entry in _entries(allow) if entry.port in (None, "*", str(port))]
    if any(entry.network is not None and parsed in entry.network for entry in entries):
        return True
    return parsed.is_global and not parsed.is_multicast and _is_unicast(parsed) and not _carries_ipv4(parsed)


def _is_unicast(address: Address) -> bool:
    """Tell whether an address is in the blocks that are given out for the public internet.

    `is_global` only knows what is reserved by name, and what it knows differs among releases of Python.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _SPECIAL_IPV4)
    return address in _GIVEN_OUT and not any(address in network for network in _SPECIAL_IPV6)


def _carries_ipv4(address: Address) -> bool:
    """Tell whether a relay may turn an IPv6 address into any IPv4 one: 6to4, Teredo; NAT64 isn't in `_GIVEN_OUT`."""
    if isinstance(address, ipaddress.IPv4Address):
        return False
    return address.sixtofour is not None or address.teredo is not None


_SPECIAL_IPV4 = (ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("192.0.0.0/24"))
_GIVEN_OUT = ipaddress.ip_network("2000::/3")
_SPECIAL_IPV6 = (
    ipaddress.ip_network("2001::/23"),
    ipaddress.ip_network("2001:db8::/32"),
    ipaddress.ip_network("3fff::/20"),
)
