"""What storages lack, and what is made of it: hard links, puts that create, an answer that can be read."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from obstore.exceptions import BaseError

from core.errors import ConfigurationError
from core.storage import PROBE_OBJECT, check_creates, open_store, told
from tests.s3 import BUCKET, S3Server

REFUSED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>NotImplemented</Code><Message>A header you provided is not implemented</Message></Error>"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with S3Server() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=[501])
def plain_puts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What a server in the place of the other one took: PUT, but not with If-None-Match (501 says Backblaze's)."""
    taken: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            refuses = "If-None-Match" in self.headers
            taken.extend([] if refuses else [self.path])
            self.send_response(request.param if refuses else 200)
            self.send_header("ETag", '"0"')
            self.send_header("Content-Length", str(len(REFUSED) if refuses else 0))
            self.end_headers()
            self.wfile.write(REFUSED if refuses else b"")

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    yield taken
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows the calls of x86-64 alone")
def test_a_folder_without_hard_links_takes_images_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.linkless", str(tmp_path / "objects")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"again": "exists", "images/a/e/0.png": "first", "deployment": "id"}
    names = sorted(path.name for path in (tmp_path / "objects").rglob("*") if path.is_file())
    assert names == ["0.png", "deployment"]


@pytest.mark.usefixtures("s3")
def test_a_server_without_conditional_puts_is_refused(plain_puts: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"refuses PUT with If-None-Match: \*.* 501.* NotImplemented$"):
        check_creates(open_store(f"s3://{BUCKET}/latentd"))
    assert len(plain_puts) == 1


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("plain_puts", [408, 429, 503], indirect=True)
def test_a_busy_server_is_not_taken_for_one(plain_puts: list[str]) -> None:
    with pytest.raises(BaseError, match=r"408|429|503"):
        check_creates(open_store(f"s3://{BUCKET}/latentd"))
    assert plain_puts == []


@pytest.mark.usefixtures("s3")
def test_a_server_that_knows_them_is_asked_with_one_small_object() -> None:
    store = open_store(f"s3://{BUCKET}/knows")
    for _ in range(2):
        check_creates(store)
    assert [entry["path"] for page in store.list() for entry in page] == [PROBE_OBJECT]


def test_a_folder_is_not_probed(tmp_path: Path) -> None:
    check_creates(open_store(str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_what_a_storage_said_is_one_line(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "images").write_text("")
    with pytest.raises(Exception, match="LocalFileSystem") as failed:
        store.put("images/a", b"")
    assert told(failed.value).endswith("Not a directory (os error 20)")
    assert told(ValueError("a <b>\n<Code>AccessDenied</Code>")) == "a AccessDenied"
    assert told(TimeoutError()) == "TimeoutError"
