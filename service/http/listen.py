"""Listening sockets, and the errors that say which setting is at fault; how to leave a port that others share."""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

from core.errors import ConfigurationError

BACKLOG = 2048

# A classic BPF program over the TCP header, for a listening socket: drop what opens a connection (SYN), pass the rest.
#   load the byte of flags; is SYN set? yes: keep 0 bytes; no: keep all
_SYN_FILTER = struct.pack("=" + "HBBI" * 4, 0x30, 0, 0, 13, 0x45, 0, 1, 0x02, 0x06, 0, 0, 0, 0x06, 0, 0, 0xFFFFFFFF)
_SO_ATTACH_FILTER = 26  # of <asm-generic/socket.h>; Python has no name for it


def listen(host: str, port: int, variable: str, *, shared: bool = False) -> socket.socket:
    """A socket that listens; port 0 is any free one. A `shared` port may be listened on by others that share it, too.

    Raises:
        ConfigurationError: naming `variable`, the port's setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except (OSError, ValueError) as error:  # ValueError: no SO_REUSEPORT on this system
        raise ConfigurationError(
            f"LATENTD_HOST={host} {variable}={port}: {getattr(error, 'strerror', None) or error}",
            field=variable,
            value=port,
            bound="a free port of this machine",
        ) from error
    # Inherited by every connection. asyncio does so only for sockets that name their protocol, which this one doesn't;
    # with Nagle's algorithm an answer's body would wait 40 ms for the client to acknowledge its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def turn_away(listening: socket.socket) -> None:
    """Take no new connections, but finish those that are being made: closing the socket would reset them.

    Clients whose first packet is dropped send it again after a second, and then meet another that shares the port.
    """
    if not sys.platform.startswith("linux"):
        return
    program = ctypes.create_string_buffer(_SYN_FILTER)
    described = struct.pack("@HP", len(_SYN_FILTER) // 8, ctypes.addressof(program))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
