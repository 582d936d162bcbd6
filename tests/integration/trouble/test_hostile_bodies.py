"""Bodies made to keep the gateway busy: each is answered within 5 s while /livez answers within 1 s."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.gateway import png
from tests.gateway_process import ANSWER_S, PULSE_S, GatewayProcess
from tests.hostile_bodies import HOSTILE
from tests.redis_server import RedisServer


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
    with gateway.watched() as seen:
        answer = gateway.client.post(hostile.path, content=body, headers={"Content-Type": hostile.content_type})
    assert (answer.status_code, answer.json().get("field")) == (hostile.status, hostile.field), answer.text
    assert seen.seconds <= ANSWER_S
    assert max(seen.pulse) <= PULSE_S


def test_no_decoder_outlives_its_gateway(redis_server: RedisServer, tmp_path: Path) -> None:
    """Stopped by a signal, by Ctrl-C to its process alone, or killed."""
    for ends in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        gateway = GatewayProcess(redis_server.url, tmp_path)
        gateway.wait()
        assert gateway.children() == []  # until they are needed
        files = {"image": ("i.png", png(), "image/png")}
        assert gateway.client.post("/v1/upscale", files=files).status_code == 202
        [decoder] = gateway.children()
        gateway.process.send_signal(ends)
        gateway.process.wait(60)
        gateway.client.close()
        until = time.monotonic() + 60
        while (
            Path(f"/proc/{decoder}/cmdline").exists() and b"decoders" in Path(f"/proc/{decoder}/cmdline").read_bytes()
        ):
            assert time.monotonic() < until
            time.sleep(0.05)
