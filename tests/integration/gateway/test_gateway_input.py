"""Bad input over HTTP: always a 4xx problem that names field, value and bound; nothing stored, enqueued or warned."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from redis import Redis
from structlog.testing import capture_logs

from contract.redis_keys import JOBS_KEY
from service.requests.posts import Txt2ImgPost
from tests.gateway import mask, png
from tests.waits import wait_for


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {"max_body_mb": 1, "max_pixels": 100_000, "queue_limit": 100_000}


def check_refused(
    answer: httpx2.Response, redis: Redis, folder: Path, field: str | None, status: int = 422
) -> dict[str, Any]:
    """A complete problem, and no trace of the request."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:latentd:problem:")
    assert problem["title"]
    assert "Traceback" not in answer.text
    if field is not None:
        assert problem["field"] == field, problem
        assert problem["bound"] not in (None, ""), problem
        assert field in problem["detail"], problem
    assert len(answer.text) < 4000
    assert redis.zcard(JOBS_KEY) == 0
    assert redis.keys("rq:*") == []
    assert [path for path in (folder / "data" / "objects").rglob("*") if path.is_file()] == []
    return problem


BAD: list[tuple[str, Any]] = [
    ("prompt", "x" * 10_000),
    ("prompt", 5),
    ("prompt", ["red"]),
    ("negative_prompt", "x" * 4001),
    ("negative_prompt", {}),
    ("model", ""),
    ("model", 7),
    ("width", 63),
    ("width", 0),
    ("width", -64),
    ("width", "64"),
    ("width", 64.5),
    ("width", True),
    ("width", 10**6),
    ("width", 10**400),
    ("height", 63),
    ("height", 10**9),
    ("height", []),
    ("steps", 0),
    ("steps", 1001),
    ("steps", -1),
    ("steps", "20"),
    ("steps", 2.5),
    ("steps", False),
    ("guidance_scale", -0.1),
    ("guidance_scale", 50.1),
    ("guidance_scale", "4"),
    ("guidance_scale", 1e308),
    ("sampler", "unheard"),
    ("sampler", 1),
    ("eta", -0.01),
    ("eta", 1.01),
    ("eta", "0"),
    ("seed", -2),
    ("seed", 2**32),
    ("seed", 1.5),
    ("num_images", 0),
    ("num_images", 17),
    ("num_images", "1"),
    ("output_format", "gif"),
    ("output_format", "PNG"),
    ("output_format", 3),
    ("priority", "urgent"),
    ("deadline_ms", 0),
    ("deadline_ms", 10**9),
    ("determinism", "loose"),
    ("preview_every", -1),
    ("preview_every", 1001),
    ("stepz", 20),
    ("image", "AAAA"),
    ("mask_mode", "white"),
    ("strength", 0.5),
    ("hires", {"scale": 1}),
    ("hires", {"scale": 4.5}),
    ("hires", {"strength": 0}),
    ("hires", {"sharpen": True}),
    ("hires", 2),
    ("webhook_url", "https://example.org/"),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: str(value)[:20])
def test_a_bad_field(client: httpx2.Client, redis: Redis, folder: Path, field: str, value: object) -> None:
    text = json.dumps({"prompt": "red heart"} | {field: value})
    answer = client.post("/v1/txt2img", content=text, headers={"Content-Type": "application/json"})
    problem = check_refused(answer, redis, folder, field)
    assert problem["value"] is not None


INPAINT_BAD: list[tuple[str, str]] = [
    ("mask_mode", "grey"),
    ("feather", "-1"),
    ("feather", "257"),
    ("feather", "x"),
    ("strength", "0"),
    ("strength", "1.1"),
    ("strength", "nan"),
    ("guidance_scale", "inf"),
    ("steps", ""),
    ("steps", "1e3"),
    ("width", "64"),
    ("seed", "4294967296"),
    ("output_format", "bmp"),
    ("colour", "red"),
]


@pytest.mark.parametrize(("field", "value"), INPAINT_BAD)
def test_a_bad_form_field(client: httpx2.Client, redis: Redis, folder: Path, field: str, value: str) -> None:
    files = {"image": ("a.png", png(), "image/png"), "mask": ("m.png", mask(), "image/png")}
    check_refused(client.post("/v1/inpaint", data={field: value}, files=files), redis, folder, field)


def _gif() -> bytes:
    data = io.BytesIO()
    Image.new("P", (8, 8)).save(data, "GIF")
    return data.getvalue()


def _noise() -> bytes:
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "PNG")
    return data.getvalue()


PICTURES: list[tuple[str, bytes, bytes, str]] = [
    ("nothing", b"", mask(), "image"),
    ("no picture", b"hello", mask(), "image"),
    ("truncated", _noise()[:2000], mask((64, 64)), "image"),
    ("another format", _gif(), mask(), "image"),
    ("too many pixels", png((400, 300)), mask((400, 300)), "image"),
    ("no mask picture", png(), b"\x89PNG", "mask"),
    ("mask of another shape", png((16, 16)), mask((16, 24)), "mask"),
    ("empty mask", png(), mask(inside=False), "mask"),
]


@pytest.mark.parametrize(("image", "hole", "field"), [p[1:] for p in PICTURES], ids=[p[0] for p in PICTURES])
def test_a_bad_picture(
    client: httpx2.Client, redis: Redis, folder: Path, image: bytes, hole: bytes, field: str
) -> None:
    files = {"image": ("a.png", image, "image/png"), "mask": ("m.png", hole, "image/png")}
    check_refused(client.post("/v1/inpaint", data={"prompt": "x"}, files=files), redis, folder, field)
    body = {"image": base64.b64encode(image).decode(), "mask": base64.b64encode(hole).decode()}
    check_refused(client.post("/v1/inpaint", json=body), redis, folder, field)


def test_missing_double_and_foreign_parts(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    part = ("a.png", png(), "image/png")
    check_refused(client.post("/v1/inpaint", files={"image": part}), redis, folder, "mask")
    check_refused(client.post("/v1/inpaint", json={"prompt": "x"}), redis, folder, "image")
    check_refused(client.post("/v1/upscale", files=[("image", part), ("image", part)]), redis, folder, "image")
    check_refused(client.post("/v1/upscale", files={"image": part, "mask": part}), redis, folder, "mask")
    check_refused(client.post("/v1/upscale", data={"prompt": "x"}, files={"image": part}), redis, folder, "prompt")
    check_refused(client.post("/v1/upscale", json={"image": 5}), redis, folder, "image")
    check_refused(client.post("/v1/upscale", json={"image": "*"}), redis, folder, "image")


def test_a_form_without_its_end(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    """Its last field may be cut short, or may be one that isn't there."""
    request = client.build_request("POST", "/v1/inpaint", files={"image": ("a.png", png()), "mask": ("m.png", mask())})
    whole = request.read()
    headers = {"Content-Type": request.headers["content-type"]}
    assert client.post("/v1/inpaint?dry_run=true", content=whole, headers=headers).status_code == 200
    for cut in (whole[:-4], whole[: whole.rindex(b"\r\n--")], whole[: len(whole) // 2]):
        check_refused(client.post("/v1/inpaint", content=cut, headers=headers), redis, folder, None, 400)


def test_an_answer_with_too_many_pixels(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    answer = client.post("/v1/upscale", files={"image": ("a.png", png((100, 75)), "image/png")})
    problem = check_refused(answer, redis, folder, None)
    assert (problem["value"], problem["bound"]) == ("400×300", 100_000)


def test_models_that_are_unknown_or_lack_the_task(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    unknown = check_refused(client.post("/v1/txt2img", json={"model": "sd15"}), redis, folder, "model", 404)
    assert unknown["bound"] == ["painter", "upscaler"]
    lacking = check_refused(client.post("/v1/txt2img", json={"model": "upscaler"}), redis, folder, "model")
    assert lacking["bound"] == ["painter"]
    check_refused(client.post("/v1/txt2img", json={"sampler": "plms", "eta": 0.5}), redis, folder, "eta")
    sampler = check_refused(client.post("/v1/txt2img", json={"sampler": "heun"}), redis, folder, "sampler")
    assert sampler["bound"] == ["ddim", "plms", "euler"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nul", b"[" * 100_000, b"\xff\xfe", b'{"prompt": "\\ud800"}', b'{"eta": NaN}']
)
def test_bodies_that_are_no_json(client: httpx2.Client, redis: Redis, folder: Path, body: bytes) -> None:
    answer = client.post("/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    check_refused(answer, redis, folder, None, 400)


@pytest.mark.parametrize("body", ["[]", "5", "null", '"red heart"'])
def test_json_that_is_no_object(client: httpx2.Client, redis: Redis, folder: Path, body: str) -> None:
    answer = client.post("/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    check_refused(answer, redis, folder, None, 400)


def test_content_types(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        answer = client.post("/v1/txt2img", content=b"{}", headers=headers)
        check_refused(answer, redis, folder, "Content-Type", 415)
    answer = client.post("/v1/inpaint", content=b"x", headers={"Content-Type": "multipart/form-data"})
    check_refused(answer, redis, folder, None, 400)


def test_a_body_too_large_is_413_however_it_is_sent(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    large = b"x" * (3 * 2**20)
    headers = {"Content-Type": "application/json"}
    check_refused(client.post("/v1/txt2img", content=large, headers=headers), redis, folder, "body", 413)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 65_536):
            yield large[start : start + 65_536]

    check_refused(client.post("/v1/txt2img", content=chunks(), headers=headers), redis, folder, "body", 413)
    files = {"image": ("a.png", large, "image/png")}
    check_refused(client.post("/v1/upscale", files=files), redis, folder, "body", 413)


def test_headers_and_queries(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    def post(body: dict[str, object], query: str = "", **headers: str) -> httpx2.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post(f"/v1/txt2img{query}", json=body, headers=sent)

    check_refused(post({"num_images": 2}, Accept="image/png"), redis, folder, "num_images")
    check_refused(post({"output_format": "jpeg"}, Accept="image/png"), redis, folder, "output_format")
    check_refused(post({}, Prefer="wait=-1"), redis, folder, "Prefer")
    check_refused(post({}, Idempotency_Key="x" * 256), redis, folder, "Idempotency-Key")
    check_refused(post({}, Idempotency_Key="a b"), redis, folder, "Idempotency-Key")
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "application/json")]
    check_refused(client.post("/v1/txt2img", content=b"{}", headers=twice), redis, folder, "Idempotency-Key")
    check_refused(post({}, "?dry_run=perhaps"), redis, folder, "dry_run")
    check_refused(post({}, "?dryrun=true"), redis, folder, "dryrun")


def test_paths_and_methods(client: httpx2.Client) -> None:
    for method, path, status in (
        ("GET", "/v1/unknown", 404),
        ("POST", "/v1/unknown", 404),
        ("GET", "/no-such-file.js", 404),
        ("PUT", "/v1/txt2img", 405),
        ("GET", "/v1/txt2img", 405),
        ("POST", "/v1/jobs", 405),
        ("GET", "/../../etc/passwd", 404),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status, (method, path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


def test_nothing_above_info_is_logged(
    client: httpx2.Client, redis: Redis, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logged:
        for body in ({"steps": 0}, {"model": "unknown"}, {"prompt": "secret " * 2000}):
            check_refused(client.post("/v1/txt2img", json=body), redis, folder, None, 404 if "model" in body else 422)
        wait_for(lambda: len(logged) == 3, 60, "lines, which follow the answers,")
    assert [entry["status"] for entry in logged] == [422, 404, 422]
    assert {entry["log_level"] for entry in logged} == {"info"}
    assert "secret" not in str(logged)
    assert "".join(capfd.readouterr()) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*Txt2ImgPost.model_fields, "other"]), JSON, max_size=6))
def test_any_object_is_planned_or_refused(client: httpx2.Client, redis: Redis, body: dict[str, object]) -> None:
    answer = client.post("/v1/txt2img?dry_run=true", json=body)
    assert answer.status_code in (200, 400, 404, 422), answer.text
    if answer.status_code in (404, 422):
        assert answer.json()["field"] in {*Txt2ImgPost.model_fields, "other"}
    assert redis.zcard(JOBS_KEY) == 0
