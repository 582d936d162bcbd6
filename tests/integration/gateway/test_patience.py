"""Clients that are slow on purpose lose their connection; heads, forms and bodies are bounded; /metrics' own port."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from service.app import create_app
from service.auth import keys
from service.http.protocol import PatientProtocol
from tests.gateway import png, running, settings_for
from tests.redis_server import RedisServer
from tests.s3 import S3Server
from tests.service import free_port
from tests.starved import allowance
from tests.waits import within

LARGE = {"image": ("a.png", b"x" * 200_000, "image/png")}


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway_settings(metrics_port: int) -> dict[str, object]:
    return {"metrics_port": metrics_port, "max_body_mb": 1}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose clients are slow: an honest one may stall for as long on a busy machine."""
    monkeypatch.setattr(PatientProtocol, "head_s", 1.0)
    monkeypatch.setattr(PatientProtocol, "unread_s", 1.0)
    monkeypatch.setattr("service.http.bodies.SLACK_S", 1.0)


def connect(client: httpx2.Client) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.base_url.port or 0))
    connection.settimeout(30)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the other side closes; a reset counts as a close."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        return found
    return found


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_slow_head_is_cut_off(client: httpx2.Client, sent: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(sent)
        allowed, began = allowance(os.getpid()), time.monotonic()
        assert answer_of(connection) == b""
        assert time.monotonic() - began - allowed() < 3


@pytest.mark.usefixtures("impatient")
def test_a_slow_second_head_is_cut_off(client: httpx2.Client) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(client) as connection:
        connection.sendall(head)
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(head[:10])
        allowed, began = allowance(os.getpid()), time.monotonic()
        assert b"200 OK" not in answer_of(connection)
        assert time.monotonic() - began - allowed() < 3


@pytest.mark.usefixtures("impatient")
def test_a_slow_body_is_a_408(client: httpx2.Client, redis: Redis) -> None:
    head = b"POST /v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(client) as connection:
        connection.sendall(head + b"Content-Length: 100\r\nConnection: close\r\n\r\n{")
        found = answer_of(connection)
    assert b"408 Request Timeout" in found
    assert b"urn:latentd:problem:request-timeout" in found
    assert redis.dbsize() == 0


def test_a_client_that_leaves_while_it_sends_is_no_error(client: httpx2.Client, redis: Redis) -> None:
    head = b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    with capture_logs() as lines:
        for kind in (b"application/json", b"multipart/form-data; boundary=x"):
            with connect(client) as connection:
                connection.sendall(head + b"Content-Type: " + kind + b"\r\n\r\n--x")
        ends = time.monotonic() + 30
        while len(seen := [line for line in lines if line["event"] == "request"]) < 2 and time.monotonic() < ends:
            time.sleep(0.01)
    assert [(line["status"], line["route"]) for line in seen] == 2 * [(499, "/v1/upscale")]
    assert [line for line in lines if line["log_level"] in ("warning", "error")] == []
    assert redis.dbsize() == 0


def ask_for_ever(connection: socket.socket, request: bytes) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            connection.send(request)
        except TimeoutError:
            continue


@pytest.mark.usefixtures("impatient")
def test_a_client_that_reads_nothing_is_cut_off(client: httpx2.Client) -> None:
    """It asks so often that the answers fill every buffer on the way."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        connection.connect(("127.0.0.1", client.base_url.port or 0))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_for_ever(connection, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)


@pytest.mark.usefixtures("impatient")
def test_a_client_that_reads_steadily_gets_the_whole_answer(redis_url: str, tmp_path: Path) -> None:
    """It takes several times as long as one that reads nothing has."""
    size, settings = 24 * 2**20, settings_for(redis_url, tmp_path)
    app = create_app(settings)
    app.router.routes.insert(0, Route("/v1/large", lambda _: Response(b"x" * size)))
    with running(settings, app) as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
        connection.connect(("127.0.0.1", client.base_url.port or 0))
        connection.sendall(b"GET /v1/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        found = 0
        while data := connection.recv(2**18):
            found += len(data)
            time.sleep(len(data) / (6 * 2**20))
    assert found > size


def trickle(connection: socket.socket) -> None:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        connection.sendall(b" ")
        time.sleep(0.2)


@pytest.fixture
def refused(impatient: None, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> bytes:  # noqa: ARG001
    """The head of a request without a key, which is answered before its body has come; that may take a second more."""
    monkeypatch.setattr(PatientProtocol, "drain_s", 1.0)
    keys.create(redis, "first", ["read"])
    return b"POST /v1/txt2img HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_that_comes_on_for_ever_after_its_answer_is_cut_off(client: httpx2.Client, refused: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(refused + b"Content-Length: 100000\r\n\r\n{")
        assert b"401 Unauthorized" in connection.recv(65536)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            trickle(connection)


def test_a_body_that_ends_after_its_answer_keeps_its_connection(client: httpx2.Client, refused: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(refused + b"Content-Length: 2\r\n\r\n{")
        assert b"401 Unauthorized" in connection.recv(65536)
        for _ in range(4):
            connection.sendall(b"}" + refused + b"Content-Length: 2\r\n\r\n{")
            assert b"401 Unauthorized" in connection.recv(65536)
            time.sleep(0.5)


def test_large_heads_are_refused(client: httpx2.Client) -> None:
    answer = client.get("/livez", headers={"X-Large": "x" * 100_000})
    assert (answer.status_code, answer.json()["title"]) == (431, "Request header fields too large")
    with connect(client) as connection:
        connection.sendall(b"GET /" + b"x" * 100_000)
        assert b"HTTP/1.1 400" in answer_of(connection)


def test_bodies_that_come_slowly_are_bounded_together(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of the largest, all but a byte, fill a gateway's bound: prompts still pass, pictures once they have left."""
    monkeypatch.setattr("service.http.bodies.HELD_BYTES", 0)
    head = b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    unfinished = head + b"Content-Length: %d\r\n\r\n" % 2**20 + b" " * (2**20 - 1)
    port, size = free_port(), 4 * (2**20 - 1)
    with running(settings_for(redis_url, tmp_path, max_body_mb=1, metrics_port=port)) as client, ExitStack() as slow:

        def told(family: str) -> list[str]:
            text = client.get(f"http://127.0.0.1:{port}/metrics").text
            return [line.split()[1] for line in text.splitlines() if line.startswith(family)]

        def held() -> list[str]:
            return told("latentd_bodies_bytes ")

        for _ in range(4):
            slow.enter_context(connect(client)).sendall(unfinished)
        assert within(lambda: [float(value) for value in held()] == [size])
        answer = client.post("/v1/upscale", files=LARGE)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:latentd:problem:bodies-busy")
        assert int(answer.headers["retry-after"]) > 0
        counted = 'latentd_http_requests_total{method="POST",route="/v1/upscale",status="503"}'
        assert told(counted) == told('latentd_rejected_total{reason="bodies-busy"}') == ["1.0"]  # alerts subtract them
        assert client.post("/v1/txt2img", json={"prompt": "x" * 1000}).status_code == 202
        slow.close()
        assert within(lambda: held() == ["0.0"])
        assert client.post("/v1/upscale", files=LARGE).status_code == 422, "read, and no picture"


def test_forms_are_bounded(client: httpx2.Client, redis: Redis) -> None:
    picture = ("a.png", png(), "image/png")
    many = client.post("/v1/upscale", data={f"field{i}": "1" for i in range(100)}, files={"image": picture})
    assert many.status_code == 400, many.text
    files = [("image", picture), ("a", picture), ("b", picture), ("c", picture)]
    unknown = client.post("/v1/upscale", files=files)
    assert (unknown.status_code, unknown.json()["field"]) == (422, "a"), "refused at the first part that is unknown"
    assert client.post("/v1/upscale", files={"image": ("a.png", b"x" * 2**21, "image/png")}).status_code == 413
    assert redis.dbsize() == 0


def test_metrics_have_a_port_of_their_own_without_keys(client: httpx2.Client, redis: Redis, metrics_port: int) -> None:
    keys.create(redis, "first", ["read"])
    assert client.get("/metrics").status_code == 401
    own = f"http://127.0.0.1:{metrics_port}"
    assert "latentd_http_requests_total" in client.get(f"{own}/metrics").text
    for path in ("/", "/v1/jobs", "/openapi.json", "/docs"):
        assert client.get(f"{own}{path}").status_code == 404


def test_below_the_free_space_asked_for_new_jobs_are_a_507(
    redis_server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    with running(settings_for(redis_server.url, tmp_path, min_free_mb=10**9)) as client:
        for answer in (
            client.post("/v1/txt2img", json={"prompt": "x"}),
            client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")}),
        ):
            assert (answer.status_code, answer.json()["bound"]) == (507, 10**9)
        assert client.get("/v1/jobs").status_code == 200
        assert client.post("/v1/txt2img?dry_run=true", json={}).status_code == 200
    assert redis.dbsize() == 0


@pytest.mark.usefixtures("redis")
def test_free_space_counts_where_images_are_stored(redis_server: RedisServer, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        folders = (tmp_path / "storage", Path(other, "storage"))
        frees = [shutil.disk_usage(folder.parent).free // 2**20 for folder in folders]
        if abs(frees[0] - frees[1]) < 64:
            pytest.skip("both disks have the same room")
        for folder, elsewhere, free in zip(folders, reversed(folders), frees, strict=True):
            asked = settings_for(redis_server.url, tmp_path, min_free_mb=sum(frees) // 2, storage_url=str(folder))
            with running(asked.model_copy(update={"data_dir": elsewhere.parent})) as client:
                answer = client.post("/v1/txt2img", json={"prompt": "x"})
                assert answer.status_code == (202 if free == max(frees) else 507), (folder, answer.text)


@pytest.mark.usefixtures("redis")
def test_of_s3_no_free_space_is_asked(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server() as s3:
        for name, value in s3.env.items():
            monkeypatch.setenv(name, value)
        asked = settings_for(redis_server.url, tmp_path, min_free_mb=10**9, storage_url=s3.env["LATENTD_STORAGE_URL"])
        with running(asked) as client:
            assert client.post("/v1/txt2img", json={"prompt": "x"}).status_code == 202
            answer = client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")})
            assert answer.status_code == 202
