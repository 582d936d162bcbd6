"""Bodies made to keep the gateway busy: each is answered within 5 s while /livez answers within 1 s."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.gateway_process import GatewayProcess
from tests.hostile_bodies import HOSTILE
from tests.redis_server import RedisServer

ANSWER_S, PULSE_S = 5.0, 1.0


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(redis_server.url, tmp_path_factory.mktemp("gateway"))
    gateway.wait()
    yield gateway
    gateway.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_and_stops_nobody(gateway: GatewayProcess, redis: Redis, name: str) -> None:  # noqa: ARG001 (empties)
    hostile = HOSTILE[name]
    body = hostile.make()
    assert len(body) <= 32 * 10**6
    with gateway.pulse() as pulse:
        began = time.monotonic()
        answer = gateway.client.post(hostile.path, content=body, headers={"Content-Type": hostile.content_type})
        seconds = time.monotonic() - began
    assert (answer.status_code, answer.json().get("field")) == (hostile.status, hostile.field), answer.text
    assert seconds <= ANSWER_S
    assert max(pulse) <= PULSE_S
