"""Whether the embedded Redis still answers: a process that runs may have hung."""

from __future__ import annotations

import threading
import time

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.retry import Retry

PING_S = 1.0
ANSWER_S = 5.0
SILENT_S = 60.0


def answers(redis: Redis) -> bool:
    """Tell whether a PING is answered, if only by an error: a server that loads its file, or is busy, is alive."""
    try:
        redis.ping()
    except (BusyLoadingError, ResponseError):
        return True
    except RedisError:
        return False
    return True


class RedisWatch(threading.Thread):
    """Pings from a thread of its own, so that a server that hangs doesn't stop the supervisor as well."""

    def __init__(self, url: str, every_s: float = PING_S) -> None:
        super().__init__(name="redis-watch", daemon=True)
        self._redis = Redis.from_url(
            url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0)
        )
        self._every_s = every_s
        self._silent_since: float | None = None

    def run(self) -> None:
        """Ping for as long as the process lives."""
        while True:
            asked = time.monotonic()
            if answers(self._redis):
                self._silent_since = None
            else:
                self._silent_since = self._silent_since or asked
            time.sleep(self._every_s)

    def began(self) -> None:
        """Note that the server was started: what the one before left unanswered counts no more."""
        self._silent_since = None

    @property
    def silent_s(self) -> float:
        """For how long every ping was in vain. Counted from a ping on: a supervisor that slept blames nobody."""
        since = self._silent_since
        return 0.0 if since is None else time.monotonic() - since
