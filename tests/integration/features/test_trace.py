"""Traces over HTTP: who shared a job's calls, what it cost, and every run; log lines name job and request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx2
import pytest
from redis import Redis
from structlog.testing import capture_logs

from contract.redis_keys import events_key, spent_key
from core.settings import Settings
from service.auth import keys
from tests.gateway import running
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx2.Client]:
    with running(settings) as client:
        yield client


def post(client: httpx2.Client, **fields: Any) -> str:
    body = {"prompt": "red heart", "width": 64, "height": 64} | fields
    answer = client.post("/v1/txt2img", json=body, headers={"X-Request-ID": "request-1"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def trace(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job_id}/trace")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_jobs_share_calls_and_their_seconds(client: httpx2.Client, rig: Rig) -> None:
    guided, plain = post(client, steps=4, guidance_scale=4), post(client, steps=4, guidance_scale=1)
    waiting = trace(client, guided)
    assert (waiting["runs"], waiting["steps"], waiting["stages"]["queue_s"]) == ([], [], None)
    assert rig.finish(guided, plain) == ["succeeded"] * 2
    first, second = trace(client, guided), trace(client, plain)
    assert [step["step"] for step in first["steps"]] == [1, 2, 3, 4]
    shared = [step for step in first["steps"] if step["jobs"] == 2]
    assert shared
    assert {(step["rows"], step["call_rows"]) for step in shared} == {(2, 3)}
    assert {step["rows"] for step in second["steps"]} == {1}
    # Each call's seconds are parted by rows: what two jobs cost is what their calls took.
    assert 0 < second["gpu_s"] < first["gpu_s"] <= first["stages"]["denoise_s"] + 1e-3
    assert all(first["stages"][stage] >= 0 for stage in ("queue_s", "encode_s", "decode_s", "store_s"))
    assert [(run["worker"], run["end"], run["last_step"]) for run in first["runs"]] == [("rig", "succeeded", 4)]
    assert (first["resumptions"], first["preemptions"], first["worker_deaths"]) == (0, 0, 0)


def test_a_job_that_is_handed_back_has_two_runs_and_one_trace(
    client: httpx2.Client, make_rig: MakeRig, redis: Redis
) -> None:
    job_id, leaving = post(client, steps=100), make_rig("leaving")
    leaving.until(lambda: leaving.step(job_id) >= 3)
    leaving.loop.stop(0)
    leaving.loop.run()
    assert make_rig("coming").finish(job_id) == ["succeeded"]
    found = trace(client, job_id)
    assert [(run["worker"], run["end"]) for run in found["runs"]] == [
        ("leaving", "handed_back"),
        ("coming", "succeeded"),
    ]
    assert (found["resumptions"], found["preemptions"], found["worker_deaths"]) == (1, 1, 0)
    assert found["runs"][1]["first_step"] == found["runs"][0]["last_step"] + 1
    assert found["gpu_s"] == pytest.approx(sum(run["gpu_s"] for run in found["runs"]), abs=1e-3)
    streamed = client.get(f"/v1/jobs/{job_id}/events").text
    seen = [line.removeprefix("event: ") for line in streamed.splitlines() if line.startswith("event: ")]
    assert set(seen) == {"queued", "started", "step", "image", "succeeded"}
    assert len(redis.xrange(events_key(job_id)) or []) == len(seen) + 2, "the two marks aren't shown"


def test_a_key_s_budget_has_paid_what_the_trace_tells(client: httpx2.Client, make_rig: MakeRig, redis: Redis) -> None:
    key, token = keys.create(redis, "k", ["generate", "read"], None, 1000.0)
    client.headers["Authorization"] = f"Bearer {token}"
    job_id, leaving = post(client, steps=100), make_rig("leaving")
    leaving.until(lambda: leaving.step(job_id) >= 3)
    leaving.loop.stop(0)
    leaving.loop.run()
    make_rig("coming").finish(job_id)
    found = trace(client, job_id)
    paid = float(redis.get(spent_key(key.id, datetime.fromisoformat(found["created_at"]))) or 0)
    told = found["gpu_s"] + found["stages"]["encode_s"] + found["stages"]["decode_s"]
    assert 0 < paid == pytest.approx(told, abs=0.005)


def test_a_job_canceled_while_it_waits_again_leaves_its_run_s_end_alone(client: httpx2.Client, rig: Rig) -> None:
    job_id = post(client, steps=200)
    rig.until(lambda: rig.step(job_id) >= 3)
    rig.loop.stop(0)
    rig.loop.run()
    before = trace(client, job_id)
    assert client.delete(f"/v1/jobs/{job_id}").json()["status"] == "canceled"
    found = trace(client, job_id)
    assert [run["end"] for run in found["runs"]] == ["handed_back"]
    assert found["runs"] == before["runs"]
    assert (found["status"], found["preemptions"]) == ("canceled", 1)


def test_log_lines_of_gateway_and_worker_name_job_and_request_but_no_prompt(client: httpx2.Client, rig: Rig) -> None:
    with capture_logs() as lines:
        job_id = post(client, steps=2)
        rig.finish(job_id)
    named = {str(line["event"]): line for line in lines if line.get("job_id") == job_id}
    assert {"job accepted", "job started", "job ended"} <= named.keys()
    assert {named[event]["request_id"] for event in ("job started", "job ended")} == {"request-1"}
    assert "red heart" not in json.dumps(lines, default=str)


def test_prompts_are_logged_where_that_is_wanted(settings: Settings) -> None:
    with running(settings.model_copy(update={"log_prompts": True})) as client, capture_logs() as lines:
        post(client)
    assert [line["prompt"] for line in lines if line["event"] == "job accepted"] == ["red heart"]


def test_an_unknown_job_has_no_trace(client: httpx2.Client) -> None:
    assert client.get("/v1/jobs/none/trace").status_code == 404
