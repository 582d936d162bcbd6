"""Manners of HTTP: methods, slashes, targets, origins behind proxies, sub-paths, other origins, malformed requests."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from core.storage import open_store
from service.app import create_app
from service.http.problems import MEDIA_TYPE
from tests.gateway import finish, png, running, settings_for
from tests.redis_server import RedisServer

PUBLIC = "https://draw.example.org"


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {
        "allowed_hosts": "draw.example.org",
        "cors_origins": "https://app.example.org",
        "trusted_proxies": "127.0.0.0/8",
    }


@pytest.fixture
def below(redis_server: RedisServer, redis: Redis, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A gateway whose public URL has a path."""
    assert redis.dbsize() == 0
    settings = settings_for(redis_server.url, tmp_path, public_url="https://example.org/draw")
    with running(settings, create_app(settings, insecure=True)) as client:
        yield client


def sent(client: httpx2.Client, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what answers raw bytes."""
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=60) as connection:
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def test_head_is_answered_wherever_get_is(client: httpx2.Client, redis: Redis) -> None:
    job_id = client.post("/v1/txt2img", json={}).json()["id"]
    for path in (
        "/",
        "/docs",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/js/app.js",
        "/v1/jobs",
        "/v1/models",
    ):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    events = client.head(f"/v1/jobs/{job_id}/events")  # which goes on for as long as the job, when it is got
    assert (events.status_code, events.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert client.head("/v1/jobs/none").status_code == 404
    assert client.head("/v1/txt2img").status_code == 405
    assert 'method="HEAD",route="/v1/jobs",status="200"' in client.get("/metrics").text
    assert redis.dbsize() > 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/livez", "GET, HEAD"),
        ("PUT", "/v1/jobs/x", "GET, HEAD, DELETE"),
        ("DELETE", "/v1/jobs", "GET, HEAD"),
        ("GET", "/v1/txt2img", "POST"),
        ("OPTIONS", "/v1/inpaint", "POST"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/js/app.js", "GET, HEAD"),
    ],
)
def test_allow_names_the_methods_of_a_path(client: httpx2.Client, method: str, path: str, allowed: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_trailing_slash_means_the_same(client: httpx2.Client) -> None:
    for path in ("/livez/", "/readyz/", "/metrics/", "/openapi.json/", "/v1/jobs/", "/v1/models/painter/"):
        answer = client.get(path)
        assert (answer.status_code, bool(answer.content)) == (200, True), path
    assert client.post("/v1/txt2img/", json={}).status_code == 202
    assert client.get("/docs/").headers["location"] == "../docs"
    for path in ("/js/", "/v1/", "/none/"):
        assert client.get(path).headers["content-type"] == MEDIA_TYPE


def test_paths_are_taken_as_they_are_meant(client: httpx2.Client) -> None:
    """Two slashes are a base URL's and a path's; dots are the client's to resolve; answers are whole."""

    def answer(target: bytes) -> tuple[int, str]:
        line = b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        status, headers, _ = sent(client, line)
        return status, headers["content-type"]

    for target in (b"//livez", b"///v1/models", b"//v1/jobs/"):
        assert answer(target) == (200, "application/json"), target
    for target in (b"/.", b"/..", b"/js/../index.html", b"/v1/models/..%2f..", b"/metrics%0a", b"/v1/jobs%00"):
        assert answer(target) == (404, MEDIA_TYPE), target
    for value in ("bytes=0-3", "bytes=9-1", "bytes", "pages=1"):
        assert client.get("/docs", headers={"Range": value}).status_code == 200, value


def test_health_is_told_under_any_host(client: httpx2.Client) -> None:
    for path, status in (("/livez", 200), ("/readyz", 200), ("/v1/jobs", 403), ("/metrics", 403), ("/", 403)):
        for host in ("10.3.2.1:8000", "", "["):
            assert client.get(path, headers={"Host": host}).status_code == status, (path, host)


def test_absolute_targets_are_those_of_their_own_host(client: httpx2.Client) -> None:
    for target, status in (
        (b"http://127.0.0.1/v1/jobs", 200),
        (b"HTTP://draw.example.org/v1/models?", 200),
        (b"http://evil.example/v1/jobs", 403),
        (b"http://127.0.0.1", 200),
        (b"*", 400),
        (b"livez", 400),
        (b"ftp://127.0.0.1/livez", 400),
    ):
        answered, headers, body = sent(
            client, b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % target
        )
        assert answered == status, (target, body)
        assert status == 200 or headers["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nBad Header: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_problem(client: httpx2.Client, data: bytes) -> None:
    status, headers, body = sent(client, data)
    assert (status // 100, headers["content-type"]) == (4, MEDIA_TYPE)
    assert json.loads(body)["status"] == status


def test_odd_bodies_are_problems_of_the_client(client: httpx2.Client) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename*=%s\r\n\r\n%s\r\n--x--\r\n'
    form = "multipart/form-data; boundary=x"
    for path, content_type, body, more in (
        ("txt2img", "application/json", gzip.compress(b"{}"), {"Content-Encoding": "gzip"}),
        ("txt2img", "application/json; charset=utf-16", "{}".encode("utf-16"), {}),
        ("upscale", "application/json", b'{"image": null}', {}),
        ("upscale", form, part % (b"nonsense", b"x"), {}),
        ("upscale", form, part % (b"klingon''%ff", b"x"), {}),
        ("upscale", "multipart/form-data", b"x", {}),
        ("upscale", f"{form}; charset=none-such", part % (b"UTF-8''a.png", b"x"), {}),
    ):
        answer = client.post(f"/v1/{path}", content=body, headers={"Content-Type": content_type, **more})
        assert (answer.status_code // 100, answer.headers["content-type"]) == (4, MEDIA_TYPE), answer.text
        assert not more or answer.status_code == 415
    plain = {"Content-Type": "application/json", "Content-Encoding": "identity"}
    assert client.post("/v1/txt2img", content=b"{}", headers=plain).status_code == 202


@pytest.mark.parametrize(
    "origin", ["http://[", "http://", "http://a:b", "null", "%", "http://127.0.0.1/x", "https://u@127.0.0.1"]
)
def test_malformed_origins_are_foreign(client: httpx2.Client, origin: str) -> None:
    answer = client.post("/v1/txt2img", json={}, headers={"Origin": origin})
    assert (answer.status_code, answer.json()["field"]) == (403, "Origin")


def test_the_scheme_of_an_origin_counts(client: httpx2.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for headers, status in (
        ({"Origin": own}, 202),
        ({"Origin": own.replace("http:", "https:")}, 403),
        ({"Origin": PUBLIC, "Host": "draw.example.org"}, 403),
        ({"Origin": "http://draw.example.org", "Host": "draw.example.org:80"}, 202),
        ({"Origin": PUBLIC, "Host": "draw.example.org", "X-Forwarded-Proto": "https"}, 202),
        ({"Origin": f"{PUBLIC}:443", "Host": "draw.example.org", "X-Forwarded-Proto": "https"}, 202),
        ({"Origin": "http://draw.example.org", "Host": "draw.example.org", "X-Forwarded-Proto": "https"}, 403),
        ({"Origin": PUBLIC, "Host": "draw.example.org", "X-Forwarded-Proto": "gopher"}, 403),
    ):
        assert client.post("/v1/txt2img", json={}, headers=headers).status_code == status, headers


def test_a_stranger_s_forwarded_scheme_is_not_believed(redis_server: RedisServer, redis: Redis, tmp_path: Path) -> None:
    assert redis.dbsize() == 0
    settings = settings_for(redis_server.url, tmp_path, trusted_proxies="10.0.0.0/8", allowed_hosts="draw.example.org")
    with running(settings) as client:
        headers = {"Origin": PUBLIC, "Host": "draw.example.org", "X-Forwarded-Proto": "https"}
        answer = client.post("/v1/txt2img", json={}, headers=headers)
        assert (answer.status_code, answer.json()["bound"]) == (403, "http://draw.example.org")
        assert "LATENTD_PUBLIC_URL" in answer.json()["detail"]


def test_a_public_url_decides_and_its_path_is_before_every_url(
    below: httpx2.Client, redis: Redis, tmp_path: Path
) -> None:
    host = {"Host": "example.org"}
    answer = below.post("/draw/v1/txt2img", json={}, headers={"Origin": "https://example.org", **host})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/draw/v1/jobs/{answer.json()['id']}"
    assert below.get(answer.headers["location"], headers=host).status_code == 200
    assert below.get("/v1/jobs", headers=host).status_code == 200  # where a proxy cuts the path off
    assert below.post("/v1/txt2img", json={}, headers={"Origin": "http://example.org", **host}).status_code == 403
    assert below.get("/draw", headers=host).headers["location"] == "/draw/"
    job_id = answer.json()["id"]
    finish(redis, open_store(str(tmp_path / "data" / "objects")), job_id, png((64, 64)))
    (image,) = below.get(f"/v1/jobs/{job_id}", headers=host).json()["images"]
    assert image["url"] == f"/draw/v1/images/{job_id}-0"
    assert below.get(image["url"], headers=host).content == png((64, 64))
    page = below.get("/draw/", headers=host)
    assert "<title>latentd</title>" in page.text
    for asset in ("js/app.js", "css/base.css", "favicon.svg", "docs"):
        assert f'"{asset}"' in page.text
        assert below.get(f"/draw/{asset}", headers=host).status_code == 200
    assert 'href="/' not in page.text


def test_pages_of_listed_origins_may_call_and_read(client: httpx2.Client) -> None:
    app = {"Origin": "https://app.example.org"}
    sent = "authorization,content-type,idempotency-key,x-stainless-lang,x-stainless-retry-count"  # OpenAI's client
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": sent}
    preflight = client.options("/v1/txt2img", headers={**app, **asked})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, app["Origin"])
    assert preflight.headers["access-control-allow-headers"] == sent
    answer = client.post("/v1/txt2img", json={}, headers=app)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, app["Origin"])
    assert {"Location", "X-Should-Retry"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    for origin in ("http://app.example.org", "https://app.example.org.evil.example", "null"):
        refused = client.options("/v1/txt2img", headers={"Origin": origin, **asked})
        assert (refused.status_code, refused.headers["vary"]) == (405, "Origin")
        assert "access-control-allow-origin" not in refused.headers
        assert "access-control-allow-origin" not in client.get("/v1/jobs", headers={"Origin": origin}).headers
