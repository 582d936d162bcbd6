"""The OpenAPI document: valid, named for generated clients, and true of what events and webhooks carry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from latentd_client import Client
from openapi_spec_validator import validate
from redis import Redis

from contract.job import Job
from contract.redis_keys import events_key
from core.errors import Problem
from core.storage import open_store
from service.app import create_app
from service.webhooks.outbox import JobEnded
from service.webhooks.send import signed_headers
from tests.gateway import fail, finish, png, running, settings_for


@pytest.fixture(scope="module")
def document(gateway: httpx2.Client) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.get("/openapi.json").json()
    return answer


def check(document: dict[str, Any], schema: dict[str, Any], value: object) -> None:
    """Validate a value against a schema of the document."""
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_it_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_operations_and_bodies_have_names(document: dict[str, Any]) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", each) for each in ids), ids
    bodies = document["paths"]["/v1/inpaint"]["post"]["requestBody"]["content"]
    names = {media: body["schema"]["$ref"].rpartition("/")[2] for media, body in bodies.items()}
    assert names == {"application/json": "InpaintPost", "multipart/form-data": "InpaintForm"}
    assert not [name for name in document["components"]["schemas"] if name.endswith(("-Input", "-Output"))]


def test_images_are_bytes(document: dict[str, Any]) -> None:
    for path, method in (("/v1/images/{id}", "get"), ("/v1/txt2img", "post")):
        content = document["paths"][path][method]["responses"]["200"]["content"]
        for media in ("image/png", "image/jpeg", "image/webp"):
            assert content[media]["schema"] == {"type": "string", "format": "binary"}


def test_calls_say_what_damage_and_purges_answer(document: dict[str, Any]) -> None:
    calls = {f"{method} {path}": call for path, item in document["paths"].items() for method, call in item.items()}
    assert {"410", "500"} <= calls["get /v1/images/{id}"]["responses"].keys()
    waits = [name for name, call in calls.items() if "504" in call["responses"]]
    assert {"post /v1/txt2img", "post /sdapi/v1/txt2img", "post /v1/images/edits"} <= set(waits)
    assert [name for name in waits if "410" not in calls[name]["responses"]] == []


def test_events_are_as_described(client: httpx2.Client, redis: Redis, folder: Path, document: dict[str, Any]) -> None:
    """Of a succeeded job as workers write it, and of a failed one."""
    store = open_store(str(folder / "data" / "objects"))
    done, failed = (client.post("/v1/txt2img", json={}).json()["id"] for _ in range(2))
    redis.xadd(events_key(done), {"type": "started", "data": '{"started_at": "2026-01-02T03:04:05.678901+00:00"}'})
    redis.xadd(events_key(done), {"type": "step", "data": '{"step": 1, "steps": 20}'})
    finish(redis, store, done, png((64, 64)))
    fail(redis, failed, Problem(title="x", status=500, detail="x"))
    (image,) = client.get(f"/v1/jobs/{done}").json()["images"]
    result = {"execution": "secret", "images": [image], "timings": {}}
    for job_id, last in ((done, result), (failed, {"error": Problem(title="x", status=500, detail="x").model_dump()})):
        newest: Any = redis.xrevrange(events_key(job_id), count=1)
        redis.xdel(events_key(job_id), newest[0][0])
        if job_id == done:
            redis.xadd(events_key(job_id), {"type": "image", "data": json.dumps(image)})
        kind = "succeeded" if job_id == done else "failed"
        redis.xadd(events_key(job_id), {"type": kind, "data": json.dumps(last)})
    described = document["paths"]["/v1/jobs/{id}/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    seen = []
    for job_id in (done, failed):
        text = client.get(f"/v1/jobs/{job_id}/events").text
        assert "secret" not in text
        assert "+00:00" not in text
        for block in text.strip().split("\n\n"):
            event = dict(line.split(": ", 1) for line in block.split("\n"))
            check(document, described["schema"], event)
            (one,) = (each for each in described["schema"]["oneOf"] if each["title"] == event["event"])
            check(document, one["properties"]["data"]["contentSchema"], json.loads(event["data"]))
            seen.append(event["event"])
    assert seen == ["queued", "started", "step", "image", "succeeded", "queued", "failed"]


def test_a_webhook_is_as_described(client: httpx2.Client, document: dict[str, Any]) -> None:
    job = Job.model_validate_json(client.post("/v1/txt2img", json={}).text, extra="ignore")
    sent = json.loads(JobEnded.of(job, "canceled").model_dump_json())
    body = document["webhooks"]["job-ended"]["post"]["requestBody"]["content"]["application/json"]
    check(document, body["schema"], sent)
    assert sent["timestamp"].endswith("Z")
    described = {each["name"] for each in document["webhooks"]["job-ended"]["post"]["parameters"]}
    assert described == set(signed_headers(b"secret", "id", 0, b""))


def test_each_task_is_a_method_of_the_client_as_the_code_of_docs_has_it(document: dict[str, Any]) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    tasks = {operation["operationId"] for operation in operations if operation.get("tags") == ["tasks"]}
    assert "txt2img" in tasks
    assert {task for task in tasks if not hasattr(Client, task)} == set()


def test_each_call_has_an_example_of_its_body(document: dict[str, Any]) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    bodies = [operation["requestBody"]["content"] for operation in operations if "requestBody" in operation]
    assert len(bodies) > 10
    for body in bodies:
        assert any("examples" in content for content in body.values()), body


def test_below_a_path_the_server_is_named(redis_url: str, tmp_path: Path) -> None:
    settings = settings_for(redis_url, tmp_path, public_url="https://example.org/draw")
    with running(settings, create_app(settings, insecure=True)) as client:
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/draw"}]
