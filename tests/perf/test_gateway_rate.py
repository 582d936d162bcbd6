"""A short look at the gateway's speed: `make bench` measures it, this notices when it is far off."""

from __future__ import annotations

from tests.perf.gateway_rate import measure


def test_the_gateway_is_not_far_slower_than_one_redis_push() -> None:
    figures = measure(rounds=3, requests=320, seconds=0.5)
    assert figures.ratio > 0.25, "0.40 is asked for; tests share their machine"
    assert all(len(side.latencies) == 150 for side in figures.sides), "nothing was refused"
