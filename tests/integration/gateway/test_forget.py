"""`latentd models forget`: a model whose files are gone from every worker is listed and accepted no more."""

from __future__ import annotations

import httpx2
import pytest
from redis import Redis
from rq.queue import Queue
from typer.testing import CliRunner

from contract.base import queue_name
from contract.redis_keys import (
    CARDS_KEY,
    LORAS_KEY,
    UNSERVED_KEY,
    cells_written_key,
    serving_key,
    serving_member,
    step_times_key,
)
from core.clock import CLOCK
from core.errors import Conflict, LatentdError, NotFound
from latentd.cli import app
from service.requests.cards import RECENT_S
from tests.gateway import PAINTER
from tests.waits import wait_for


def forget(redis_url: str, name: str) -> None:
    """Run the command; raises what it ends with."""
    result = CliRunner().invoke(app, ["models", "forget", name], env={"REDIS_URL": redis_url})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.output == f"{name} is forgotten\n"


def listed(client: httpx2.Client) -> list[str]:
    return [model["id"] for model in client.get("/v1/models").json()["items"]]


def test_what_has_gone_is_forgotten(client: httpx2.Client, redis: Redis, redis_url: str) -> None:
    redis.hset(CARDS_KEY, "gone", PAINTER.model_copy(update={"id": "gone"}).to_json())
    redis.zadd(serving_key("gone"), {serving_member("w", "cpu"): CLOCK.unix() - 1})
    redis.hset(step_times_key("gone"), "a", 1)
    redis.zadd(cells_written_key("gone"), {"a": 1})
    redis.hset(LORAS_KEY, "dogs", "{}")
    wait_for(lambda: "gone" in listed(client), RECENT_S + 5, "the card")
    forget(redis_url, "gone")
    forget(redis_url, "dogs")
    assert not redis.exists(
        CARDS_KEY, LORAS_KEY, serving_key("gone"), step_times_key("gone"), cells_written_key("gone")
    )
    wait_for(lambda: "gone" not in listed(client), RECENT_S + 5, "its end")
    assert client.post("/v1/txt2img", json={"prompt": "x", "model": "gone"}).status_code == 404


def test_no_metric_and_no_list_of_queues_names_it_any_more(client: httpx2.Client, redis: Redis, redis_url: str) -> None:
    redis.hset(CARDS_KEY, "gone", PAINTER.model_copy(update={"id": "gone"}).to_json())
    wait_for(lambda: "gone" in listed(client), RECENT_S + 5, "the card")
    for model in ("gone", "painter"):
        made = client.post("/v1/txt2img", json={"model": model}).json()["id"]
        assert client.delete(f"/v1/jobs/{made}").json()["status"] == "canceled"
    assert len(Queue.all(connection=redis)) == 2
    forget(redis_url, "gone")
    wait_for(lambda: "gone" not in listed(client), RECENT_S + 5, "its end")
    assert [queue.name for queue in Queue.all(connection=redis)] == [queue_name("painter", "interactive")]
    assert not [key for key in redis.scan_iter() if b"gone" in key and not key.startswith(b"latentd:gone:")]
    told = [line for line in client.get("/metrics").text.splitlines() if 'model="gone"' in line]
    assert [line for line in told if not line.startswith("latentd_jobs_accepted")] == []
    assert redis.hkeys(UNSERVED_KEY) == [b"txt2img:painter:interactive:canceled"]


@pytest.mark.parametrize(
    ("name", "refusal", "told"),
    [
        ("none", NotFound, "no worker has published 'none'"),
        ("served", Conflict, "served is served by 1 workers"),
        ("asked", Conflict, "asked has 1 jobs"),
    ],
)
def test_what_is_in_use_is_kept(
    client: httpx2.Client, redis: Redis, redis_url: str, name: str, refusal: type[LatentdError], told: str
) -> None:
    for model in ("served", "asked"):
        redis.hset(CARDS_KEY, model, PAINTER.model_copy(update={"id": model}).to_json())
    redis.zadd(serving_key("served"), {serving_member("w", "cpu"): CLOCK.unix() + 60})
    wait_for(lambda: "asked" in listed(client), RECENT_S + 5, "the cards")
    assert client.post("/v1/txt2img", json={"prompt": "x", "model": "asked"}).status_code == 202
    with pytest.raises(refusal, match=told):
        forget(redis_url, name)
    assert set(redis.hkeys(CARDS_KEY)) == {b"served", b"asked"}
