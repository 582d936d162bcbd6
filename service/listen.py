"""Listening sockets, and the errors that say which setting is at fault."""

from __future__ import annotations

import socket

from latentd.errors import ConfigurationError

BACKLOG = 2048


def listen(host: str, port: int, variable: str) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        ConfigurationError: naming `variable`, the port's setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"LATENTD_HOST={host} {variable}={port}: {error.strerror}",
            field=variable,
            value=port,
            bound="a free port of this machine",
        ) from error
