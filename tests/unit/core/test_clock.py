"""Redis's time decides, whatever the machine's own clock says."""

from __future__ import annotations

import time

from redis import Redis

from core.clock import RedisClock


def test_until_redis_has_told_the_time_the_machine_s_own_counts() -> None:
    clock = RedisClock(own=lambda: 1000.0)
    assert (clock.unix(), clock.own_ahead_s()) == (1000.0, 0.0)


def test_time_goes_on_by_the_steady_clock_and_jumps_of_the_own_are_seen() -> None:
    own, steady = [1000.0], [50.0]
    clock = RedisClock(own=lambda: own[0], steady=lambda: steady[0])
    asked = clock.asked()
    steady[0] += 2.0
    clock.told(asked, (400, 500_000))
    assert clock.unix() == 401.5  # the question took two seconds
    steady[0] += 3.0
    own[0] += 600.0
    assert clock.unix() == 404.5
    assert clock.own_ahead_s() == 1600.0 - 404.5


def test_a_clock_ten_minutes_ahead_shows_redis_s_time(redis: Redis) -> None:
    clock = RedisClock(own=lambda: time.time() + 600)
    clock.sync(redis)
    assert abs(clock.unix() - time.time()) < 1
    assert abs(clock.own_ahead_s() - 600) < 1
