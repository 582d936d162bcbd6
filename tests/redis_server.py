"""A real Redis or Valkey server of a test's own, on a Unix socket in a short-lived folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from latentd.child import die_with_parent
from latentd.embedded_server import find_server

START_S = 60.0


class RedisServer:
    """Starts, kills and restarts one server; with `aof` every write is on disk before it is answered.

    The server is the one that `latentd up` starts, unless `binary` names another.
    """

    def __init__(self, *, aof: bool = False, binary: Path | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="latentd-redis-"))  # short: socket paths end at 107 bytes
        self.socket = self.folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        place = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        log = ["--loglevel", "warning", "--logfile", str(self.folder / "redis.log")]
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if aof else ["--save", ""]
        self._arguments = [*place, *log, *keep]
        self.binary = find_server(binary)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers; a restart finds what an append-only file kept."""
        self._process = subprocess.Popen([str(self.binary), *self._arguments], preexec_fn=die_with_parent)
        self._wait()

    def _wait(self) -> None:
        ends = time.monotonic() + START_S
        with self.connect() as redis:
            while True:
                try:
                    redis.ping()
                    return
                except RedisConnectionError:
                    if time.monotonic() > ends:
                        raise
                    time.sleep(0.01)

    def connect(self) -> Redis:
        """A new client with its own connections."""
        return Redis.from_url(self.url)

    def signal(self, number: int) -> None:
        """Send the server a signal, as SIGSTOP to make it hang."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`: nothing is flushed or said goodbye to."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder)
