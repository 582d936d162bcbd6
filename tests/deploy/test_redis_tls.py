"""A managed Redis: TLS and a password in REDIS_URL, for gateway and worker."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis
from redis.exceptions import RedisError

from tests.service import Service, free_port
from tests.tiny import write_tiny_inpaint, write_tiny_upscale

PASSWORD = "sec-ret_0123"


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A key and its own certificate for 127.0.0.1, which is its authority, too."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


@pytest.fixture
def tls_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a redis-server that speaks TLS alone and wants a password."""
    key, certificate = make_certificate(tmp_path)
    binary, port = shutil.which("redis-server"), free_port()
    assert binary is not None
    tls = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    rest = ["--requirepass", PASSWORD, "--save", "", "--dir", str(tmp_path), "--loglevel", "warning"]
    process = subprocess.Popen([binary, *tls, *files, *rest])
    url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
    try:
        wait_until_up(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def wait_until_up(url: str) -> None:
    until = time.monotonic() + 10
    with Redis.from_url(url) as redis:
        while True:
            try:
                redis.ping()
                return
            except RedisError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


def test_gateway_and_worker_meet_on_it(tls_url: str, tmp_path: Path) -> None:
    write_tiny_inpaint(tmp_path / "models" / "tiny")
    write_tiny_upscale(tmp_path / "models" / "tiny-upscale")
    models = {"LATENTD_MODELS_DIR": str(tmp_path / "models"), "LATENTD_MODEL": "tiny", "LATENTD_THREADS": "1"}
    with Service({"REDIS_URL": tls_url, **models}) as service:
        picture = Image.open(io.BytesIO(service.image(service.post("/v1/txt2img", prompt="red heart"))))
        assert picture.size == (64, 64)
        assert PASSWORD not in service.log_path.read_text()


def test_a_wrong_password_is_not_shown(tls_url: str) -> None:
    with Redis.from_url(tls_url.replace(PASSWORD, "wrong")) as redis, pytest.raises(RedisError) as caught:
        redis.ping()
    assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
