"""The gateway over HTTP with a real Redis and no worker: jobs are accepted and wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from rq import Queue
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

from service.contract import CONTRACT_VERSION, JOB_FUNCTION, JobRequest, queue_name
from tests.gateway import running, settings_for
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def client(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with running(settings_for(redis_server.url, folder)) as client:
        yield client


@pytest.fixture(autouse=True)
def _empty(redis: Redis) -> None:
    assert redis.dbsize() == 0


def test_prompt_becomes_a_queued_job(client: httpx2.Client, redis: Redis) -> None:
    answer = client.post("/v1/txt2img", json={"prompt": "red heart"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["kind"], job["position"]) == ("queued", "txt2img", 0)
    assert job["progress"] == {"step": 0, "steps": 20}
    assert job["request"]["width"] == 64
    assert job["request"]["seeds"] == [job["request"]["seed"]]
    assert client.get(answer.headers["location"]).json() == job

    rq_job = RQJob.fetch(job["id"], connection=redis, serializer=JSONSerializer)
    version, job_id, request = rq_job.args
    assert (version, job_id) == (CONTRACT_VERSION, job["id"])
    assert JobRequest.model_validate(request).seed == job["request"]["seed"]
    assert rq_job.func_name == JOB_FUNCTION
    assert rq_job.description == f"txt2img {job['id']}"
    assert rq_job.get_status() == "queued"
    assert rq_job.retries_left == 1000
    assert rq_job.meta == {}
    queue = Queue(queue_name("painter", "interactive"), connection=redis, serializer=JSONSerializer)
    assert queue.get_job_ids() == [job["id"]]
    assert queue in Queue.all(connection=redis, serializer=JSONSerializer)
