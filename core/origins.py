"""Origins, host names and networks as settings and headers write them, in the one form in which they are compared."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}

_LABEL = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AUTHORITY = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_PORTED = re.compile(r"(.+):(\d{1,5}|\*)")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class Origin(NamedTuple):
    """Scheme, host and port; the port is the scheme's own where none was written."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


class WebhookEntry(NamedTuple):
    """One entry of LATENTD_WEBHOOK_ALLOW; `port` is None for the scheme's own, `*` for any."""

    name: str
    network: Network | None
    port: str | None
    plain: bool

    def __str__(self) -> str:
        bare = self.port is not None and ":" in self.name and not self.name.startswith("[")
        name = f"[{self.name}]" if bare else self.name
        return ("http://" if self.plain else "") + name + ("" if self.port is None else f":{self.port}")


def host_name(text: str) -> str | None:
    """Return a host name or address without port, in one form; None for what no `Host` header can be."""
    name = text.strip().lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return name if _NAME.fullmatch(name) else None


def parse_authority(scheme: str, text: str) -> Origin | None:
    """Read `host[:port]` as a `Host` header has it."""
    parts = _split(f"{scheme}://{text}") if _AUTHORITY.fullmatch(text) else None
    return None if parts is None else _origin(parts)


def parse_origin(text: str) -> Origin | None:
    """Read an `Origin` header: scheme and authority, nothing else."""
    scheme, _, authority = text.partition("://")
    return parse_authority(scheme.lower(), authority)


def parse_public_url(text: str) -> tuple[Origin, str] | None:
    """Read an origin with the path below which it is served; the path is empty or begins with a slash."""
    parts = _split(text.rstrip("/"))
    origin = None if parts is None or "?" in text or "#" in text else _origin(parts)
    if parts is None or origin is None or not _PATH.fullmatch(parts.path):
        return None
    return origin, parts.path


def parse_network(text: str) -> Network | None:
    """Read a network or an address, with or without brackets."""
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


@lru_cache(maxsize=256)
def parse_webhook_entry(text: str) -> WebhookEntry | None:
    """Read `[http://]name[:port]`; the name may begin with `*.`, or be a network. A whole that is one has no port."""
    lower = text.lower()
    whole = lower.removeprefix("http://")
    ported = None if parse_network(whole) else _PORTED.fullmatch(whole)
    name, port = (whole, "*") if ported is None else (ported[1], ported[2])
    name = name.rstrip(".")
    network = parse_network(name)
    if not (network or host_name(name.removeprefix("*."))) or not (port == "*" or 0 < int(port) <= 65535):
        return None
    port = port if port == "*" else str(int(port))
    return WebhookEntry(name, network, None if ported is None else port, plain=lower != whole)


def _split(text: str) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        return parts if parts.port != 0 else None  # reading it checks it
    except ValueError:
        return None


def _origin(parts: SplitResult) -> Origin | None:
    host = host_name(parts.hostname or "")
    if parts.scheme not in DEFAULT_PORTS or host is None or "@" in parts.netloc:
        return None
    return Origin(parts.scheme, host, parts.port or DEFAULT_PORTS[parts.scheme])
