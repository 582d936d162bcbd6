"""One clock for all processes: Redis's TIME. It decides deadlines and expiry and is what answers show.

A machine's own clock may be minutes off. What is kept is how far Redis's lies ahead of this process's monotonic clock,
measured anew every few seconds; until Redis has told the time once, the machine's own is all there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from redis import Redis

SYNC_S = 10.0  # clocks drift apart by less than a millisecond in it
AHEAD = "latentd_clock_ahead_seconds"
AHEAD_MEANS = "By how much this machine's clock is ahead of Redis's, which counts."
TOLERATED_S = 1.0  # of a machine's own clock; beyond that somebody should know


class RedisClock:
    """Redis's time, as far as this process knows it."""

    def __init__(self, own: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._steady = steady
        self._ahead: float | None = None

    def unix(self) -> float:
        """Seconds of Unix time."""
        return self._own() if self._ahead is None else self._steady() + self._ahead

    def now(self) -> datetime:
        """The same as a date in UTC."""
        return datetime.fromtimestamp(self.unix(), UTC)

    def own_ahead_s(self) -> float:
        """By how much the machine's clock is ahead of Redis's; 0 until Redis has told the time."""
        return 0.0 if self._ahead is None else self._own() - self.unix()

    def asked(self) -> float:
        """The moment of a question, for `told`."""
        return self._steady()

    def told(self, asked: float, answer: tuple[int, int] | list[bytes | str | int]) -> None:
        """Take Redis's answer to TIME, seconds and microseconds, as the time halfway between question and answer."""
        seconds, micros = answer
        self._ahead = int(seconds) + int(micros) / 1e6 - (asked + self._steady()) / 2

    def sync(self, redis: Redis) -> None:
        """Ask Redis.

        Raises:
            RedisError: if Redis is away.
        """
        asked = self.asked()
        self.told(asked, redis.time())


CLOCK = RedisClock()
"""The process's; it has one Redis."""
