"""What a new job is made of; the hash that the gateway writes is the one that RQ itself would write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from rq import Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from contract.base import CONTRACT_VERSION
from contract.job import JOB_FUNCTION, JobRecord
from contract.redis_keys import spent_key
from core.settings import Settings
from jobs.create import (
    RETRIES,
    VARYING,
    Created,
    _constant_fields,
    _rq_values,
    create,
    drawn_seed,
    find,
    key_digest,
    new_id,
)
from tests.enqueue import make_request


def test_fields_are_those_of_rq() -> None:
    now = datetime.now(UTC)
    request = make_request(prompt='a "red" heart — ünïcode', priority="bulk")
    record = JobRecord(id="job", created_at=now, request=request)
    job = Job.create(
        JOB_FUNCTION,
        args=[CONTRACT_VERSION, "job"],
        id="job",
        connection=Redis(),
        serializer=JSONSerializer,
        origin="latentd.tiny.bulk",
        description="txt2img job",
        status=JobStatus.QUEUED,
        timeout=-1,
        result_ttl=60,
        failure_ttl=60,
        retry=Retry(max=RETRIES),
    )
    job.enqueued_at = job.created_at = now
    expected: dict[str, Any] = {name: value for name, value in job.to_dict().items() if value is not None}
    written = _constant_fields(60) | dict(zip(VARYING, _rq_values(record), strict=True))
    assert written.keys() == expected.keys()
    for name in expected.keys() - {"data"}:
        assert _bytes(written[name]) == _bytes(expected[name]), name
    restored = Job("job", connection=Redis(), serializer=JSONSerializer)
    restored.restore({name.encode(): _bytes(value) for name, value in written.items()})
    assert (restored.func_name, list(restored.args), restored.kwargs) == (job.func_name, list(job.args), job.kwargs)


def _bytes(value: Any) -> bytes:
    """As a Redis client sends it; a status is a text of its own kind."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else str(value).encode()


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.sampled_from(["", "key-a"]))
def test_a_key_stands_for_scope_endpoint_and_key(key: str, owner: str) -> None:
    digest = key_digest(key, "txt2img", owner)
    assert digest == key_digest(key, "txt2img", owner)
    elsewhere = {key_digest(key, "inpaint", owner), key_digest(key, "txt2img", "key-b")}
    assert len({digest, key_digest(key + "x", "txt2img", owner), *elsewhere}) == 4
    assert key_digest(None, "txt2img", owner) == ""


def test_ids_and_seeds_are_random() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(job_id) == 32 and job_id.isalnum() for job_id in ids)
    seeds = {drawn_seed() for _ in range(100)}
    assert len(seeds) > 95
    assert all(0 <= seed < 2**32 for seed in seeds)


def create_each(url: str, *records: JobRecord) -> list[Created]:
    """Create jobs one after another, for an owner with a budget."""

    async def run() -> list[Created]:
        async with AsyncRedis.from_url(url, decode_responses=True) as redis:
            made = [await create(redis, Settings(), record, "k", 100.0) for record in records]
            assert await find(redis, records[0].key_digest) == records[0]
            return made

    return asyncio.run(run())


def test_a_script_whose_answer_was_lost_makes_its_job_once(redis: Redis, redis_url: str) -> None:
    values: dict[str, Any] = {"created_at": datetime.now(UTC), "request": make_request(), "charged_s": 2.0}
    record = JobRecord(id="a", key_digest=key_digest("k", "txt2img", ""), **values)
    assert [made.replayed for made in create_each(redis_url, record, record)] == [False, False]
    assert redis.lrange("rq:queue:latentd.tiny.interactive", 0, -1) == [b"a"]
    assert float(redis.get(spent_key("", record.created_at)) or 0) == 2.0


def test_the_first_of_two_ids_for_one_key_holds_it(redis: Redis, redis_url: str) -> None:
    values: dict[str, Any] = {"created_at": datetime.now(UTC), "request": make_request()}
    digest = key_digest("k", "txt2img", "")
    first, second = (JobRecord(id=job_id, key_digest=digest, **values) for job_id in "ab")
    made = create_each(redis_url, first, second)
    assert [(each.record.id, each.replayed) for each in made] == [("a", False), ("a", True)]
    assert redis.lrange("rq:queue:latentd.tiny.interactive", 0, -1) == [b"a"]
    assert not redis.exists("latentd:job:b", "rq:job:b")
