"""The Python client where something else answers, where many streams are open, its fields, and PIL's pictures."""

from __future__ import annotations

import asyncio
import base64
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, get_args, get_type_hints

import httpx2
import pytest
from latentd_client import AsyncClient, Client, Image, Job, Refused, Unreachable
from latentd_client.tasks import Tasks, task_call
from PIL import Image as Pillow
from typing_extensions import Unpack

from contract.base import Kind
from service.requests.kinds import KINDS

JOB = Job("0", "txt2img", "queued", datetime.now(UTC), 0, 1, {})
PICTURE = Image("0/0", "", 0, 8, 8, "png", 8, "")
STREAMS = 101  # one more than httpx has connections by itself


@contextmanager
def strange(status: int, kind: str, body: bytes, **headers: str) -> Iterator[str]:
    """The address of what gives every call the same answer."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def stranger(status: int, kind: str, body: bytes) -> Iterator[Client]:
    """A client of it."""
    with strange(status, kind, body) as server, Client(server, patience_s=1.0) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"status": "error", "message": "upstream not found"}', "upstream not found"),
        (b'{"status": null}', "404 Not Found from http"),
        (b'{"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}', "404 Not Found from http"),
    ],
)
def test_another_service_s_error_is_a_refusal_with_the_answer_s_status(body: bytes, told: str) -> None:
    with stranger(404, "application/json", body) as client, pytest.raises(Refused, match=told) as refused:
        client.job("0")
    assert refused.value.problem.status == 404


def test_other_json_names_what_answers() -> None:
    with stranger(200, "application/json", b'{"ok": true, "items": [1]}') as client:
        for call in (lambda: client.submit("txt2img"), lambda: list(client.jobs()), lambda: client.cancel(JOB)):
            with pytest.raises(Unreachable, match="is it latentd's address"):
                call()


@pytest.mark.parametrize(
    ("kind", "told"),
    [("text/html", "with text/html: is it latentd's address"), ("text/event-stream", "no answer in 1 s")],
)
def test_what_is_no_stream_of_events_is_not_asked_for_ever(kind: str, told: str) -> None:
    with stranger(200, kind, b"") as client, pytest.raises(Unreachable, match=told):
        client.wait(JOB)


@pytest.mark.parametrize("data", [b"{broken", b"[1]"])
def test_an_event_that_can_not_be_read_is_named(data: bytes) -> None:
    body = b"event: step\ndata: " + data + b"\n\n"
    told = "the event 'step' of job 0 has no JSON object"
    with stranger(200, "text/event-stream", body) as client, pytest.raises(Unreachable, match=told):
        client.wait(JOB)


def submit(server: str) -> None:
    with Client(server, patience_s=0.5) as client:
        client.submit("txt2img")


def follow(server: str) -> None:
    with Client(server, patience_s=0.5) as client:
        client.wait(JOB)


async def _submit(server: str) -> None:
    async with AsyncClient(server, patience_s=0.5) as client:
        await client.submit("txt2img")


async def _follow(server: str) -> None:
    async with AsyncClient(server, patience_s=0.5) as client:
        await client.wait(JOB)


ASKING: list[Callable[[str], None]] = [submit, follow]
ASKING += [lambda server: asyncio.run(_submit(server)), lambda server: asyncio.run(_follow(server))]


@pytest.mark.parametrize("asking", ASKING)
def test_an_answer_that_can_not_be_unpacked_is_as_a_lost_one(asking: Callable[[str], None]) -> None:
    told = r"no answer in 0\.5 s: DecodingError"
    packed = strange(200, "text/event-stream", b"{}", Content_Encoding="gzip")
    with packed as server, pytest.raises(Unreachable, match=told):
        asking(server)


@pytest.mark.parametrize("asking", ASKING[1::2])  # nobody follows one from a POST
def test_redirects_without_an_end_are_told_at_once(asking: Callable[[str], None]) -> None:
    told = "/again: redirects without an end"
    with strange(302, "text/html", b"", Location="/again") as server, pytest.raises(Unreachable, match=told):
        asking(server)


def test_a_page_is_no_picture() -> None:
    with stranger(200, "text/html", b"<p>Hello") as client, pytest.raises(Unreachable, match="with text/html"):
        client.image_file(PICTURE)


async def _follow_many(server: str) -> str:
    async with AsyncClient(server, timeout_s=5, patience_s=5) as client:
        job = await client.submit("txt2img", prompt="x")
        streams = [client.events(job) for _ in range(STREAMS)]
        for stream in streams:
            assert (await anext(stream)).type == "queued"
        status = (await client.cancel(job)).status
        for stream in streams:
            assert [event.type async for event in stream] == ["canceled"]
        return status


def test_open_streams_keep_no_call_waiting(client: httpx2.Client) -> None:
    assert asyncio.run(_follow_many(str(client.base_url))) == "canceled"


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_s_method_has_the_fields_of_the_service(kind: Kind) -> None:
    hints = get_type_hints(getattr(Tasks, kind), localns={"Unpack": Unpack})
    (more,) = get_args(hints.pop("fields"))
    del hints["return"]
    assert {*hints, *more.__annotations__} == {*KINDS[kind].post.model_fields, *KINDS[kind].files, "idempotency_key"}


def sent(picture: Pillow.Image) -> Pillow.Image:
    return Pillow.open(io.BytesIO(base64.b64decode((task_call("img2img", {"image": picture}).json or {})["image"])))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, str, Path])
def test_a_picture_is_a_file_s_bytes_or_path_in_controls_too(kind: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "house.png"
    path.write_bytes(b"a picture")
    given = kind(path if kind in (str, Path) else b"a picture")
    call = task_call("txt2img", {"prompt": "x", "image": given, "controls": [{"id": "canny", "image": given}]})
    expected = base64.b64encode(b"a picture").decode()
    assert call.json == {"prompt": "x", "image": expected, "controls": [{"id": "canny", "image": expected}]}


class Slow(os.PathLike[str]):
    """A file whose reading takes until the event loop has had a turn."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.path, self.loop = path, loop

    def __fspath__(self) -> str:
        return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, str(self.path)), self.loop).result(timeout=30)


async def _send_slowly(server: str, path: Path) -> None:
    async with AsyncClient(server) as client:
        picture = Slow(path, asyncio.get_running_loop())
        for call in (client.submit, client.dry_run):
            with pytest.raises(Refused, match="gone"):
                await call("img2img", image=picture)


def test_files_are_read_beside_the_event_loop(tmp_path: Path) -> None:
    (tmp_path / "house.png").write_bytes(b"a picture")
    with strange(410, "application/json", b'{"detail": "gone"}') as server:
        asyncio.run(_send_slowly(server, tmp_path / "house.png"))


def test_calls_in_several_threads_may_share_a_picture() -> None:
    exif, file = Pillow.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Pillow.effect_noise((900, 600), 80).save(file, "JPEG", exif=exif)
    for _ in range(5):
        shared = Pillow.open(file)
        with ThreadPoolExecutor(6) as threads:
            made = list(threads.map(sent, [shared] * 6))
        assert {(picture.size, picture.tobytes()) for picture in made} == {((600, 900), made[0].tobytes())}


def test_a_photo_goes_up_as_the_camera_was_held() -> None:
    exif, file = Pillow.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Pillow.new("RGB", (40, 20)).save(file, "JPEG", exif=exif)
    upright = sent(Pillow.open(file))
    assert (upright.size, 0x0112 in upright.getexif()) == ((20, 40), False)


@pytest.mark.parametrize(
    ("mode", "held"),
    [
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("RGBa", "RGBA"),
        ("PA", "RGBA"),
        ("La", "LA"),
        ("I", "I;16"),
        ("I;16B", "I;16"),
        ("P", "P"),
    ],
)
def test_pictures_of_other_modes_go_up_in_the_nearest_that_a_png_holds(mode: str, held: str) -> None:
    assert sent(Pillow.new(mode, (8, 8))).mode == held
