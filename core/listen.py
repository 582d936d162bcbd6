"""Listening sockets, and the errors that say which setting is at fault."""

from __future__ import annotations

import socket

from core.errors import ConfigurationError

BACKLOG = 2048


def listen(host: str, port: int, variable: str) -> socket.socket:
    """Open a socket that listens; port 0 is any free one.

    Raises:
        ConfigurationError: the address can't be listened on; the error names `variable`, the port's setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()  # as people mean it: every address, IPv4's too
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:  # the latter for a name that can be none
        setting = "LATENTD_METRICS_HOST" if "METRICS" in variable else "LATENTD_HOST"
        raise ConfigurationError(
            f"{setting}={host} {variable}={port}: {getattr(error, 'strerror', None) or error}",
            field=variable,
            value=port,
            bound="a free port of this machine",
        ) from error
    # Inherited by every connection. asyncio does so only for sockets that name their protocol, which this one doesn't;
    # with Nagle's algorithm an answer's body would wait 40 ms for the client to acknowledge its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
