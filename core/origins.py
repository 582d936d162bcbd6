"""Origins and host names as settings and headers write them, in the one form in which they are compared."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}

_LABEL = "[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AUTHORITY = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class Origin(NamedTuple):
    """Scheme, host and port; the port is the scheme's own where none was written."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}")


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
