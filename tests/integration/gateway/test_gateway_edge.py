"""What surrounds the API: hosts, origins, headers, health without Redis, metrics, OpenAPI, the page, imports."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis
from starlette.responses import PlainTextResponse, Response
from structlog.testing import capture_logs

from contract.redis_keys import DEPLOYMENT_KEY
from core.errors import ConfigurationError, Problem
from core.storage import DEPLOYMENT_OBJECT
from service.app import configure, create_app, serve
from service.http.problems import MEDIA_TYPE
from tests.gateway import UPSCALER, mask, png, running, settings_for
from tests.redis_server import RedisServer
from tests.service import free_port


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {"allowed_hosts": "images.example.org"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:80", "localhost", "LOCALHOST:1", "[::1]:8000", "127.8.8.8", "images.example.org"]
)
def test_known_hosts_are_served(client: httpx2.Client, host: str) -> None:
    assert client.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "[", ""]
)
def test_other_hosts_are_refused(client: httpx2.Client, host: str) -> None:
    answer = client.get("/v1/jobs", headers={"Host": host})
    assert (answer.status_code, answer.json()["field"]) == (403, "Host")


def test_foreign_origins_change_nothing(client: httpx2.Client, redis: Redis) -> None:
    own = str(client.base_url).rstrip("/")
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = client.post("/v1/txt2img", json={}, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["field"]) == (403, "Origin")
        assert client.delete("/v1/jobs/x", headers={"Origin": origin}).status_code == 403
        assert client.get("/v1/jobs", headers={"Origin": origin}).status_code == 200
    assert redis.dbsize() == 0
    assert client.post("/v1/txt2img", json={}, headers={"Origin": own}).status_code == 202
    preflight = client.options("/v1/txt2img", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in preflight.headers


def test_every_answer_has_safe_headers_and_an_id(client: httpx2.Client) -> None:
    for path in ("/", "/docs", "/livez", "/v1/unknown", "/v1/jobs"):
        headers = client.get(path, headers={"X-Request-ID": "mine-1"}).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert headers["x-request-id"] == "mine-1"
    assert client.get("/livez", headers={"X-Request-ID": "no\tgood"}).headers["x-request-id"] != "no\tgood"


def test_without_redis_calls_answer_503_and_the_process_lives(tmp_path: Path) -> None:
    settings = settings_for(f"unix://{tmp_path}/none.sock", tmp_path)
    with running(settings) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/").status_code == 200
        for method, path in (
            ("GET", "/readyz"),
            ("GET", "/metrics"),  # whether it asks for a key can't be known; LATENTD_METRICS_PORT goes on
            ("GET", "/v1/jobs"),
            ("GET", "/v1/jobs/x"),
            ("DELETE", "/v1/jobs/x"),
            ("GET", "/v1/jobs/x/events"),
            ("GET", "/v1/images/x-0"),
            ("GET", "/v1/models"),
        ):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE), path
        assert client.post("/v1/txt2img", json={}).status_code == 503
        files = {"image": ("a.png", png(), "image/png")}
        assert client.post("/v1/upscale", files=files).status_code == 503
    assert not [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]


def test_redis_may_come_later(tmp_path: Path) -> None:
    server = RedisServer()
    with running(settings_for(server.url, tmp_path)) as client:
        assert client.get("/readyz").status_code == 503
        with server:
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/txt2img", json={}).status_code == 202
            server.kill()
            assert client.get("/readyz").status_code == 503
            server.start()
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/txt2img", json={}).status_code == 202


def test_without_redis_the_metrics_port_tells_so_and_nothing_old(tmp_path: Path) -> None:
    port = free_port()
    with RedisServer() as server, running(settings_for(server.url, tmp_path, metrics_port=port)) as client:
        url = f"http://127.0.0.1:{port}/metrics"
        assert client.post("/v1/txt2img", json={}).status_code == 202
        assert values(client.get(url).text, "latentd_redis_up", "latentd_queue_depth") == [1, 1, 0, 0, 0]
        server.kill()
        assert client.post("/v1/txt2img", json={}).status_code == 503
        answer = client.get(url)
        assert answer.status_code == 200
        assert values(answer.text, "latentd_redis_up") == [0]
        of_redis = ("queue_depth", "queue_oldest_seconds", "workers", "retries_total", "jobs_unserved_total")
        assert values(answer.text, *(f"latentd_{name}" for name in of_redis)) == []
        assert 'method="POST",route="/v1/txt2img",status="503"} 1.0' in answer.text
        server.start()
        assert values(client.get(url).text, "latentd_redis_up") == [1]


def test_a_redis_without_memory_left_is_a_503_and_goes_on_answering(tmp_path: Path) -> None:
    """As maxmemory with noeviction makes it: what asks for more is refused, what reads or makes room is answered."""
    port = free_port()
    with RedisServer() as server, running(settings_for(server.url, tmp_path, metrics_port=port)) as client:
        job_id = client.post("/v1/txt2img", json={}).json()["id"]
        with server.connect() as redis:
            redis.config_set("maxmemory", "1")
            files = {"image": ("a.png", png((64, 64)), "image/png"), "mask": ("m.png", mask((64, 64)), "image/png")}
            painted = client.post("/v1/inpaint", data={"prompt": "x"}, files=files)
            for answer in (client.post("/v1/txt2img", json={}), painted):
                assert (answer.status_code, answer.headers["content-type"]) == (503, MEDIA_TYPE), answer.text
            assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"
            assert client.delete(f"/v1/jobs/{job_id}").json()["status"] == "canceled"
            assert client.delete(f"/v1/jobs/{job_id}", params={"purge": True}).status_code == 204
            assert client.get(f"/v1/jobs/{job_id}").status_code == 410
            assert values(client.get(f"http://127.0.0.1:{port}/metrics").text, "latentd_redis_up") == [1]
            redis.config_set("maxmemory", "0")
        assert not [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()], "uploads of no job"
        assert client.post("/v1/txt2img", json={}).status_code == 202


def test_an_upload_isnt_put_below_a_mount_point_without_its_mount(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    files = {"image": ("a.png", png((64, 64)), "image/png"), "mask": ("m.png", mask((64, 64)), "image/png")}
    folder = tmp_path / "mounted"
    with running(settings_for(redis_url, tmp_path, storage_url=str(folder))) as client:
        redis.set(DEPLOYMENT_KEY, "id")
        answer = client.post("/v1/inpaint", data={"prompt": "x"}, files=files)
        assert (answer.status_code, "has lost its id" in answer.json()["detail"]) == (503, True)
        assert client.post("/v1/txt2img", json={}).status_code == 202
        (folder / DEPLOYMENT_OBJECT).write_text("id")
        assert client.post("/v1/inpaint", data={"prompt": "x"}, files=files).status_code == 202


@pytest.mark.usefixtures("redis")
def test_the_log_says_what_the_storage_said(redis_url: str, tmp_path: Path) -> None:
    with running(settings_for(redis_url, tmp_path)) as client:
        (tmp_path / "data" / "objects").rmdir()
        (tmp_path / "data" / "objects").write_text("a file where the folder was")
        with capture_logs() as logs:
            answer = client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")})
    assert (answer.status_code, "os error" in answer.text) == (503, False)
    assert "os error" in next(line["cause"] for line in logs if line["event"] == "unable")


def values(text: str, *names: str) -> list[float]:
    """Of the samples with these names, in the order of the text."""
    samples = [line for line in text.splitlines() if re.split(r"[{ ]", line)[0] in names]
    return [float(line.split()[-1]) for line in samples]


def test_a_task_without_checkpoint_names_the_command(redis_url: str, tmp_path: Path) -> None:
    with running(settings_for(redis_url, tmp_path, UPSCALER)) as client:
        answer = client.post("/v1/txt2img", json={})
        assert answer.status_code == 409
        assert "latentd models convert PATH $LATENTD_MODELS_DIR/NAME --to native" in answer.json()["detail"]
        assert client.post("/v1/upscale", files={"image": ("a.png", png(), "image/png")}).status_code == 202


PROBED = ("/livez", "/readyz", "/metrics")


def test_metrics_count_by_route_template(client: httpx2.Client, redis: Redis) -> None:
    assert redis.dbsize() == 0
    job_id = client.post("/v1/txt2img", json={"prompt": "private words"}).json()["id"]
    client.get(f"/v1/jobs/{job_id}")
    client.post("/v1/txt2img", json={"steps": 0})
    client.get("/secret-path")
    for path in PROBED:
        assert client.get(path).status_code == 200
    text = client.get("/metrics").text
    for path in PROBED:  # as the alert on errors leaves them out
        assert f'latentd_http_requests_total{{method="GET",route="{path}",status="200"}}' in text
    assert 'latentd_http_requests_total{method="GET",route="/v1/jobs/{id}",status="200"}' in text
    assert 'latentd_http_requests_total{method="POST",route="/v1/txt2img",status="422"}' in text
    assert 'latentd_rejected_total{reason="invalid-request"}' in text
    assert 'latentd_queue_depth{lane="interactive",model="painter"} 1.0' in text
    assert 'latentd_queue_oldest_seconds{lane="interactive",model="painter"}' in text
    assert "latentd_http_request_seconds_bucket" in text
    assert not any(word in text for word in (job_id, "secret-path", "private"))


def test_jobs_are_counted_when_made_and_when_no_worker_ends_them(client: httpx2.Client, redis: Redis) -> None:
    assert redis.dbsize() == 0
    made = 'latentd_jobs_accepted_total{kind="txt2img",lane="bulk",model="painter"}'
    ended = 'latentd_jobs_unserved_total{kind="txt2img",lane="bulk",model="painter",outcome="canceled"}'
    assert f"{ended} 0.0" in client.get("/metrics").text  # from the start, so that a first one is a rise
    body, key = {"priority": "bulk"}, {"Idempotency-Key": "once"}
    assert client.post("/v1/txt2img?dry_run=true", json=body).status_code == 200
    jobs = {client.post("/v1/txt2img", json=body, headers=key).json()["id"] for _ in range(2)}
    assert len(jobs) == 1
    assert f"{made} 1.0" in client.get("/metrics").text
    for _ in range(2):  # a cancelled job is left as it is
        assert client.delete(f"/v1/jobs/{next(iter(jobs))}").json()["status"] == "canceled"
    assert f"{ended} 1.0" in client.get("/metrics").text


def test_openapi_is_complete(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    compatible = {path for path, tags in _tags(document).items() if tags & {"openai", "a1111"}}
    assert {"/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img", "/internal/ping"} <= compatible
    assert set(document["paths"]) - compatible == {
        "/v1/txt2img",
        "/v1/inpaint",
        "/v1/loras",
        "/v1/embeddings",
        "/v1/controlnets",
        "/v1/upscale",
        "/v1/img2img",
        "/v1/class2img",
        "/v1/semantic2img",
        "/v1/depth2img",
        "/v1/layout2img",
        "/v1/jobs",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/deliveries",
        "/v1/jobs/{id}/events",
        "/v1/jobs/{id}/trace",
        "/v1/images/{id}",
        "/v1/models",
        "/v1/models/{id}",
        "/livez",
        "/readyz",
        "/metrics",
    }
    for path in ("/v1/txt2img", "/v1/inpaint", "/v1/upscale"):
        body = document["paths"][path]["post"]["requestBody"]["content"]
        assert body["application/json"]["examples"]
        schema = document["components"]["schemas"][body["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items():
            assert field.get("description"), f"{path} {name} has no meaning"
        assert "multipart/form-data" in body
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/json" if path in compatible else MEDIA_TYPE]
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/components/schemas/')[1:]]
    assert set(references) <= set(document["components"]["schemas"])


def _tags(document: dict[str, Any]) -> dict[str, set[str]]:
    """The tags of each path."""
    return {
        path: {tag for operation in operations.values() for tag in operation.get("tags", ())}
        for path, operations in document["paths"].items()
    }


def test_docs_are_served_without_a_foreign_asset(client: httpx2.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("docs.js", "docs.css"):
        assert name in page.text
        asset = client.get(f"/{name}")
        assert asset.status_code == 200
        assert "://" not in asset.text.replace("http://www.w3.org", "")
    assert "://" not in page.text
    assert "<style" not in page.text


def test_the_gateway_imports_no_torch_and_starts_soon() -> None:
    code = (
        "import sys, time; import service.app; "
        "print(time.process_time(), *[m for m in ('torch', 'numpy', 'models', 'workers') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = answer.stdout.split()
    assert modules == []
    assert float(seconds) < 2.5, "seconds of CPU, Python's own start included: others use this machine, too"


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"host": "0.0.0.0"}, "LATENTD_HOST=0.0.0.0"),
        ({"public_url": "https://draw.example.org"}, "LATENTD_PUBLIC_URL=https://draw.example.org"),
    ],
)
def test_where_others_come_a_key_is_needed_or_insecure(
    redis_url: str, tmp_path: Path, told: dict[str, object], named: str
) -> None:
    settings = settings_for(redis_url, tmp_path, **told)
    with pytest.raises(ConfigurationError, match=f"{named} is reachable .* --insecure"):
        serve(settings)
    with running(settings) as client:  # its Redis has lost the keys since
        assert client.get("/v1/jobs").status_code == 401


def test_a_public_url_of_this_machine_needs_no_key(redis_url: str, tmp_path: Path) -> None:
    with running(settings_for(redis_url, tmp_path, public_url="http://localhost:8080")) as client:
        assert client.get("/v1/jobs").status_code == 200


def test_idle_connections_outlast_those_of_balancers(redis_url: str, tmp_path: Path) -> None:
    assert configure(create_app(settings_for(redis_url, tmp_path))).timeout_keep_alive > 60


@pytest.mark.parametrize("setting", ["port", "metrics_port"])
def test_a_port_in_use_is_a_configuration_error(redis_url: str, tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken, capture_logs() as logged:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match=f" LATENTD_{setting.upper()}="):
            serve(settings_for(redis_url, tmp_path, **{"port": 0, setting: taken.getsockname()[1]}))
    assert [line["event"] for line in logged] == []


def test_a_path_s_problems_have_the_format_of_its_router(redis_url: str, tmp_path: Path) -> None:
    app = create_app(settings_for(redis_url, tmp_path))

    def plain(problem: Problem, headers: Mapping[str, str]) -> Response:
        return PlainTextResponse(f"{problem.status}: {problem.detail}", problem.status, dict(headers))

    app.state.problem_formats["/v1/models"] = plain
    with running(settings_for(redis_url, tmp_path), app) as client:
        answers = [client.get("/v1/models/none"), client.get("/v1/models", headers={"Host": "evil.example"})]
        assert [answer.status_code for answer in answers] == [404, 403]
        assert all(answer.text.startswith(f"{answer.status_code}: ") for answer in answers)
        assert client.get("/v1/jobs/none").headers["content-type"] == MEDIA_TYPE
