"""Behind nginx, configured by the sample of docs/operations.md: origins over TLS, events, sub-paths."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from core.storage import open_store
from service.app import create_app
from tests.gateway import finish, png, running, settings_for
from tests.modules import ROOT
from tests.nginx import Nginx
from tests.redis_server import RedisServer
from tests.service import free_port

HOST = "draw.example.org"


def sample() -> str:
    """The block of the page."""
    found = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of HOST, which nothing trusts."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", f"/CN={HOST}", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(command, check=True, capture_output=True)
    return chain, key


@contextmanager
def behind_nginx(folder: Path, gateway: httpx2.Client, location: str = "location / {") -> Iterator[httpx2.Client]:
    """A client over TLS of the sample's nginx; only addresses, files and the location are other ones."""
    port, (chain, key) = free_port(), certificate(folder)
    block = sample().replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;").replace("location / {", location)
    block = block.replace(f"/etc/ssl/{HOST}.pem", str(chain)).replace(f"/etc/ssl/{HOST}.key", str(key))
    block = block.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{gateway.base_url.port}")
    proxy = Nginx(folder, port, block)
    try:
        proxy.ready()
        trust = ssl.create_default_context(cafile=str(chain))
        trust.check_hostname = False
        url = f"https://127.0.0.1:{port}"
        with httpx2.Client(base_url=url, verify=trust, headers={"Host": HOST}, timeout=60, trust_env=False) as client:
            yield client
    finally:
        proxy.process.terminate()
        proxy.process.wait(10)


@pytest.mark.parametrize(
    "told",
    [{"public_url": f"https://{HOST}"}, {"trusted_proxies": "127.0.0.1", "allowed_hosts": HOST}],
    ids=["public_url", "trusted_proxies"],
)
def test_the_page_works_behind_tls(
    redis_server: RedisServer, redis: Redis, tmp_path: Path, told: dict[str, object]
) -> None:
    assert redis.dbsize() == 0
    settings = settings_for(redis_server.url, tmp_path, **told)
    with (
        running(settings, create_app(settings, insecure=True)) as gateway,
        behind_nginx(tmp_path, gateway) as client,
    ):
        assert client.get("/").status_code == 200
        made = client.post("/v1/txt2img", json={}, headers={"Origin": f"https://{HOST}"})
        assert (made.status_code, made.headers["location"]) == (202, f"/v1/jobs/{made.json()['id']}")
        for origin in (f"http://{HOST}", f"https://{HOST}:8443", "https://evil.example"):
            refused = client.post("/v1/txt2img", json={}, headers={"Origin": origin, "X-Forwarded-Proto": "http"})
            assert refused.status_code == 403, origin
        for path in ("/v1/jobs/", "/livez/", "/docs/"):
            assert "http:" not in client.get(path).headers.get("location", "")
        with client.stream("GET", f"/v1/jobs/{made.json()['id']}/events") as events:
            assert next(events.iter_lines()).startswith("id: ")  # while the job waits: nothing is buffered


def test_a_picture_of_a_prompt_that_was_cut_comes_through(
    redis_server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    assert redis.dbsize() == 0
    settings = settings_for(redis_server.url, tmp_path, public_url=f"https://{HOST}")
    app = create_app(settings, insecure=True)
    with running(settings, app) as gateway, behind_nginx(tmp_path, gateway) as client:
        body, once = {"prompt": "\U0001f9e1 " * 2000}, {"Idempotency-Key": "once"}
        job = client.post("/v1/txt2img", json=body, headers=once).json()
        assert len(job["warnings"][0]["message"]) > 3000
        finish(redis, open_store(str(tmp_path / "data" / "objects")), job["id"], png((64, 64)))
        picture = client.post("/v1/txt2img", json=body, headers=once | {"Accept": "image/png"})
        assert (picture.status_code, picture.content) == (200, png((64, 64)))
        (warning,) = json.loads(picture.headers["latentd-warnings"])
        assert job["warnings"][0]["message"].startswith(warning["message"].removesuffix("…"))


def test_behind_tls_without_a_setting_the_refusal_names_it(
    redis_server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    assert redis.dbsize() == 0
    settings = settings_for(redis_server.url, tmp_path, allowed_hosts=HOST)
    with running(settings) as gateway, behind_nginx(tmp_path, gateway) as client:
        answer = client.post("/v1/txt2img", json={}, headers={"Origin": f"https://{HOST}"})
        assert answer.status_code == 403
        assert "LATENTD_PUBLIC_URL" in answer.json()["detail"]


@pytest.mark.parametrize("cut", [False, True], ids=["path kept", "path cut off"])
def test_below_a_path(redis_server: RedisServer, redis: Redis, tmp_path: Path, cut: bool) -> None:
    assert redis.dbsize() == 0
    location = "location /draw/ {" + ("rewrite ^/draw/(.*)$ /$1 break;" if cut else "")
    settings = settings_for(redis_server.url, tmp_path, public_url=f"https://{HOST}/draw")
    app = create_app(settings, insecure=True)
    with running(settings, app) as gateway, behind_nginx(tmp_path, gateway, location) as client:
        made = client.post("/draw/v1/txt2img", json={}, headers={"Origin": f"https://{HOST}"})
        job_id = made.json()["id"]
        assert made.headers["location"] == f"/draw/v1/jobs/{job_id}"
        finish(redis, open_store(str(tmp_path / "data" / "objects")), job_id, png((64, 64)))
        (image,) = client.get(made.headers["location"]).json()["images"]
        assert client.get(image["url"]).content == png((64, 64))
        assert client.get("/draw/js/app.js").status_code == 200
        assert "<title>latentd</title>" in client.get("/draw/").text
