"""Calls that wait for their job for minutes hold nothing of what they sent."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from redis import Redis

from contract.redis_keys import JOBS_KEY
from tests.compat import listed
from tests.gateway import PAINTER, UPSCALER, png, running, settings_for
from tests.waits import within

BOUNDARY = "boundary"


@pytest.fixture
def client(redis_url: str, tmp_path: Path) -> Iterator[httpx2.Client]:
    painter = PAINTER.model_copy(update={"tasks": ("txt2img", "img2img", "inpaint")})
    with running(settings_for(redis_url, tmp_path, painter, UPSCALER, max_wait_s=60.0)) as client:
        yield client


def noise(side: int) -> bytes:
    data = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(data, "PNG")
    return data.getvalue()


def as_json(path: str, picture: bytes) -> bytes:
    """A request in JSON, whole."""
    text = base64.b64encode(picture).decode()
    fields = {"init_images": [text]} if path.startswith("/sdapi") else {"image": text}
    return head(path, "application/json", body := json.dumps(fields).encode()) + body


def as_form(path: str, picture: bytes) -> bytes:
    """A request as a form, whole."""
    parts = {'name="prompt"': b"x", 'name="image"; filename="a.png"': picture}
    written = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + data + b"\r\n"
        for name, data in parts.items()
    ]
    body = b"".join([*written, f"--{BOUNDARY}--\r\n".encode()])
    return head(path, f"multipart/form-data; boundary={BOUNDARY}", body) + body


def head(path: str, media: str, body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Prefer: wait=60", f"Content-Type: {media}"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()


def held(client: httpx2.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("latentd_bodies_bytes "))


@pytest.mark.parametrize(
    ("path", "write"),
    [("/v1/upscale", as_json), ("/v1/images/edits", as_form), ("/sdapi/v1/img2img", as_json)],
)
def test_a_call_that_waits_holds_no_picture(client: httpx2.Client, redis: Redis, path: str, write: object) -> None:
    assert callable(write)
    first, request = write(path, png((64, 64))), write(path, picture := noise(512))
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as warm:
        warm.sendall(first)  # what is made once, decoders above all
        assert within(lambda: len(listed(redis, JOBS_KEY)) == 1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as waiting:
            waiting.sendall(request)
            assert within(lambda: len(listed(redis, JOBS_KEY)) == 2)
            time.sleep(0.5)
            grown = tracemalloc.get_traced_memory()[0] - before
            assert grown < len(picture) / 4
    finally:
        tracemalloc.stop()


def test_a_call_that_waits_leaves_the_room_of_its_body_to_others(client: httpx2.Client, redis: Redis) -> None:
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as waiting:
        waiting.sendall(as_json("/v1/upscale", noise(512)))
        assert within(lambda: len(listed(redis, JOBS_KEY)) == 1)
        assert within(lambda: held(client) == 0.0, 10)
