"""Hostile and odd pictures through HTTP, to a gateway process of its own whose memory is watched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from redis import Redis

from contract.redis_keys import JOBS_KEY
from tests.gateway import mask
from tests.gateway_process import ANSWER_S, PULSE_S, GatewayProcess, peak_mb
from tests.hostile_pictures import honest, hostile, saved
from tests.redis_server import RedisServer

HONEST, HOSTILE = honest(), hostile()
PEAK_MB = 900  # with all bodies that wait, and what was decoded of them
DECODER_PEAK_MB = 600  # a picture of 16.8 million RGBA pixels and its mask, with copies


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One that allows more pixels than these have: with them grows its decoders' time, and slow machines have slack."""
    variables = {"LATENTD_MAX_PIXELS": str(2**26)}
    gateway = GatewayProcess(redis_server.url, tmp_path_factory.mktemp("gateway"), **variables)
    gateway.wait()
    yield gateway
    gateway.stop()


def upscale(gateway: GatewayProcess, data: bytes) -> httpx2.Response:
    return gateway.client.post("/v1/upscale", files={"image": ("picture.png", data, "image/png")})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_are_refused_and_leave_nothing(gateway: GatewayProcess, redis: Redis, name: str) -> None:
    before = gateway.stored()
    with gateway.watched() as seen:
        answer = upscale(gateway, HOSTILE[name])
    assert seen.seconds <= ANSWER_S
    assert max(seen.pulse) <= PULSE_S
    assert (answer.status_code, answer.json().get("field")) == (422, "image"), answer.text
    size = {"image": ("i.png", saved(Image.new("RGB", (32, 24)), "PNG"), "image/png")}
    as_mask = gateway.client.post("/v1/inpaint", files={**size, "mask": ("m.png", HOSTILE[name], "image/png")})
    assert (as_mask.status_code, as_mask.json().get("field")) == (422, "mask"), as_mask.text
    assert redis.zcard(JOBS_KEY) == 0
    assert gateway.stored() == before


@pytest.mark.parametrize("name", HONEST)
def test_odd_pictures_are_read(gateway: GatewayProcess, redis: Redis, name: str) -> None:  # noqa: ARG001 (empties)
    answer = upscale(gateway, HONEST[name])
    assert answer.status_code == 202, answer.text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_broken_bytes_are_never_a_5xx(gateway: GatewayProcess, kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(saved(Image.effect_noise((40, 30), 80).convert("RGB"), kind))
    for at, value in changes:
        data[at % len(data)] = value
    assert upscale(gateway, bytes(data)).status_code in (202, 422, 429)


def test_memory_stays_bounded(gateway: GatewayProcess, redis: Redis) -> None:  # noqa: ARG001 (empties)
    """The largest pictures that are allowed, several at once, and bombs among them; who is told to come back does."""
    large = saved(Image.new("RGBA", (4096, 4096), (9, 8, 7, 6)), "PNG", compress_level=1)
    bomb = HOSTILE["30,000 × 30,000 pixels in 110 kB"]

    def inpaint(data: bytes) -> int:
        hole = mask((4096, 4096))
        files = {"image": ("i.png", data, "image/png"), "mask": ("m.png", hole, "image/png")}
        while (answer := gateway.client.post("/v1/inpaint", files=files)).status_code == 503:
            assert answer.json()["type"] == "urn:latentd:problem:decoders-busy"
            time.sleep(float(answer.headers["retry-after"]))
        return answer.status_code

    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(inpaint, [large, bomb] * 2))
    assert statuses == [202, 422] * 2
    assert gateway.process.poll() is None
    assert gateway.peak_mb() < PEAK_MB
    assert all(peak_mb(pid) < DECODER_PEAK_MB for pid in gateway.children())


def test_who_can_not_be_served_soon_is_told_so(gateway: GatewayProcess, redis: Redis) -> None:  # noqa: ARG001 (empties)
    """Eight honest JPEGs of 16.8 million noisy pixels at once: seconds of two decoders' work each."""
    noise = Image.effect_noise((4096, 4096), 60)
    photo, hole = saved(Image.merge("RGB", [noise, noise, noise]), "JPEG", quality=60), mask((4096, 4096))

    def post(_: int) -> tuple[int, bool]:
        files = {"image": ("i.jpg", photo, "image/jpeg"), "mask": ("m.png", hole, "image/png")}
        answer = gateway.client.post("/v1/inpaint", files=files)
        return answer.status_code, "retry-after" in answer.headers

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, range(8))) == {(202, False), (503, True)}
