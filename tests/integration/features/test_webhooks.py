"""Webhooks from the outbox to a receiver: verified, tried again, taken over, never to where they mustn't go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from structlog.testing import capture_logs

from contract.redis_keys import OUTBOX_KEY, deliveries_key, job_key
from core.errors import ConfigurationError
from core.storage import open_store
from core.text import as_text
from service.admission.backlogs import Backlogs
from service.app import create_app
from service.auth import keys
from service.webhooks.addresses import check_url
from service.webhooks.outbox import GROUP, Webhooks
from service.webhooks.send import NotSent, send
from tests.gateway import finish, png, running, settings_for
from tests.receiver import SECRET, SECRET_TEXT, Receiver
from tests.redis_server import RedisServer

FAST_S = (0.05, 0.05, 0.05, 0.05)
ALLOW = ("http://127.0.0.1:*", "http://rebind.example:*", "hooks.example.org")


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.webhooks.outbox.BLOCK_MS", 50)


@pytest.fixture
def client(redis_server: RedisServer, redis: Redis, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A gateway that accepts webhooks but sends none: the tests send."""
    assert redis.dbsize() == 0
    settings = settings_for(redis_server.url, tmp_path, webhook_allow=ALLOW, webhook_secret=SECRET_TEXT)
    app = create_app(settings)
    app.router.lifespan_context = WithoutSending
    with running(settings, app) as client:
        yield client


class WithoutSending:
    """A lifespan that starts nothing."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        await self.app.state.gateway.close()


def canceled(client: httpx2.Client, url: str, **headers: str) -> str:
    """The id of a job that was canceled, which the outbox then tells of."""
    job = client.post("/v1/txt2img", json={"prompt": "x", "webhook_url": url}, headers=headers)
    assert job.status_code == 202, job.text
    client.delete(f"/v1/jobs/{job.json()['id']}", headers=headers)
    return str(job.json()["id"])


def sent_by(redis_url: str, done: Callable[[], object]) -> None:
    """Run one sender until `done()`."""
    asyncio.run(_send(redis_url, done))


async def _send(redis_url: str, done: Callable[[], object]) -> None:
    redis = AsyncRedis.from_url(redis_url, decode_responses=True)
    webhooks = Webhooks(redis, Backlogs(redis), SECRET, ALLOW, 60, backoff_s=FAST_S)
    task = asyncio.create_task(webhooks.run())
    ends = time.monotonic() + 60
    while not done():
        assert time.monotonic() < ends, "the webhooks weren't sent in time"
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    await redis.aclose()


def test_a_receiver_that_fails_three_times_gets_one_verified_delivery(
    client: httpx2.Client, redis: Redis, redis_url: str
) -> None:
    with Receiver((500, 302, 404, 204)) as receiver:
        job_id = canceled(client, receiver.url)
        sent_by(redis_url, lambda: redis.llen(deliveries_key(job_id)) >= 4)
        received = receiver.wait(4)
    assert all(each.verified and each.path == "/hook?x=1" for each in received)
    assert {each.headers["webhook-id"] for each in received} == {f"msg_{job_id}"}
    body = json.loads(received[-1].body)
    assert (body["type"], body["data"]["id"], body["data"]["status"]) == ("job.canceled", job_id, "canceled")
    assert body["timestamp"] == body["data"]["ended_at"]
    assert body["timestamp"].endswith("Z")
    log = client.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]
    assert [(each["attempt"], each["status"]) for each in log] == [(1, 500), (2, 302), (3, 404), (4, 204)]
    assert [each["next_at"] is None for each in log] == [False, False, False, True]
    assert 0 < redis.ttl(deliveries_key(job_id)) <= 60
    assert redis.xlen(OUTBOX_KEY) == 0
    assert redis.zcard("latentd:webhooks:due") == 0


def test_the_webhook_of_a_job_that_only_a_newer_release_reads_waits_for_it(
    client: httpx2.Client, redis: Redis, redis_url: str
) -> None:
    with Receiver((204,)) as receiver:
        job_id = canceled(client, receiver.url)
        record = redis.hget(job_key(job_id), "record")
        assert record is not None
        redis.hset(job_key(job_id), "record", as_text(record).replace("txt2img", "txt2video"))
        with capture_logs() as logs:
            sent_by(redis_url, lambda: any(line["event"].endswith("left to a newer release") for line in logs))
        assert (redis.xlen(OUTBOX_KEY), receiver.received) == (1, [])


@pytest.mark.parametrize(("status", "tries"), [(410, 1), (500, len(FAST_S) + 1)])
def test_it_gives_up(client: httpx2.Client, redis: Redis, redis_url: str, status: int, tries: int) -> None:
    with Receiver((status,)) as receiver:
        job_id = canceled(client, receiver.url)
        sent_by(redis_url, lambda: redis.llen(deliveries_key(job_id)) == tries)
    log = client.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]
    assert (len(log), log[-1]["next_at"]) == (tries, None)
    assert redis.zcard("latentd:webhooks:due") == 0


def test_what_a_dead_gateway_held_is_sent(
    client: httpx2.Client, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.webhooks.outbox.ORPHANED_MS", 200)
    with Receiver() as receiver:
        job_id = canceled(client, receiver.url)
        redis.xgroup_create(OUTBOX_KEY, GROUP, id="0")
        assert redis.xreadgroup(GROUP, "dead", {OUTBOX_KEY: ">"})
        sent_by(redis_url, lambda: redis.llen(deliveries_key(job_id)) == 1)
        assert len(receiver.received) == 1
    assert redis.xlen(OUTBOX_KEY) == 0


def test_a_full_redis_takes_what_was_sent_and_what_is_due(client: httpx2.Client, redis: Redis, redis_url: str) -> None:
    """Tries are noted, tried again when they are due, and end: nobody is told twice of a job."""
    with Receiver((500, 204)) as receiver:
        redis.xgroup_create(OUTBOX_KEY, GROUP, id="0", mkstream=True)  # as by the first gateway that ran
        job_id = canceled(client, receiver.url)
        redis.config_set("maxmemory", "1")
        try:
            sent_by(redis_url, lambda: len(client.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]) == 2)
        finally:
            redis.config_set("maxmemory", "0")
        assert [one["status"] for one in client.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]] == [500, 204]
        assert len(receiver.received) == 2
    assert redis.xlen(OUTBOX_KEY) == 0


def test_a_purged_job_is_told_of_no_more(client: httpx2.Client, redis: Redis, redis_url: str) -> None:
    with Receiver() as receiver:
        job_id = canceled(client, receiver.url)
        assert client.delete(f"/v1/jobs/{job_id}?purge=true").status_code == 204
        sent_by(redis_url, lambda: redis.xlen(OUTBOX_KEY) == 0)
        assert receiver.received == []


def test_urls_are_signed_while_the_jobs_own_key_may_read_it(
    client: httpx2.Client, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    store, signed = open_store(str(tmp_path / "data" / "objects")), []
    made = [
        keys.create(redis, "reads", ["generate", "read"]),
        keys.create(redis, "draws", ["generate"]),
        keys.create(redis, "goes", ["generate", "read"]),
    ]
    with Receiver() as receiver:
        for number, (key, token) in enumerate(made, 1):
            sent = {"prompt": "x", "webhook_url": receiver.url}
            job_id = client.post("/v1/txt2img", json=sent, headers={"Authorization": f"Bearer {token}"}).json()["id"]
            finish(redis, store, job_id, png((64, 64)))
            if number == 3:
                keys.revoke(redis, key.id)
            redis.xadd(OUTBOX_KEY, {"job": job_id, "type": "succeeded"})
            sent_by(redis_url, partial(redis.exists, deliveries_key(job_id)))
            (image,) = json.loads(receiver.wait(number)[-1].body)["data"]["images"]
            signed.append("signature=" in image["url"])
    assert signed == [True, False, False]


def test_with_keys_on_the_owner_alone_sees_the_log(client: httpx2.Client, redis: Redis, redis_url: str) -> None:
    tokens = [keys.create(redis, name, ["generate", "read"])[1] for name in "ab"]
    with Receiver() as receiver:
        job_id = canceled(client, receiver.url, Authorization=f"Bearer {tokens[0]}")
        sent_by(redis_url, lambda: redis.llen(deliveries_key(job_id)) == 1)
        assert receiver.wait(1)[0].verified
    statuses = [
        client.get(f"/v1/jobs/{job_id}/deliveries", headers={"Authorization": f"Bearer {token}"}).status_code
        for token in tokens
    ]
    assert statuses == [200, 404]


def test_urls_that_are_not_allowed_are_refused(client: httpx2.Client, redis: Redis) -> None:
    for url in ("https://evil.example/", "http://hooks.example.org/", "x", "https://10.0.0.1/"):
        answer = client.post("/v1/txt2img", json={"prompt": "x", "webhook_url": url})
        assert (answer.status_code, answer.json()["field"]) == (422, "webhook_url"), answer.text
    assert "LATENTD_WEBHOOK_ALLOW" in answer.json()["detail"]
    assert redis.dbsize() == 0


def deliver(url: str, *addresses: str, allow: Sequence[str] = ALLOW) -> int:
    """Send to a URL whose name has these addresses."""
    asked: list[str] = []

    async def resolving(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return addresses

    status = asyncio.run(send(check_url(url, allow), SECRET, "msg_x", b"{}", allow, resolving))
    assert len(asked) == 1
    return status


def test_the_checked_address_is_the_one_connected_to() -> None:
    """The name doesn't exist for the system's resolver: only what was checked can have been connected to."""
    with Receiver() as receiver:
        url = f"http://rebind.example:{receiver.port}/"
        assert deliver(url, "127.0.0.1") == 204
        assert receiver.received[0].headers["host"] == f"rebind.example:{receiver.port}"
        for addresses in (("169.254.169.254",), ("127.0.0.1", "10.0.0.1"), ()):
            with pytest.raises(NotSent, match="address"):
                deliver(url, *addresses)
        with pytest.raises(NotSent, match="private address"):
            deliver(url, "127.0.0.1", allow=("http://rebind.example:*",))
        assert len(receiver.received) == 1


def test_redirects_are_not_followed() -> None:
    with Receiver() as target, Receiver((307,), location=target.url) as receiver:
        assert deliver(receiver.url, "127.0.0.1") == 307
        assert target.received == []


def test_answers_that_are_not_http_and_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.webhooks.send.LIMIT_S", 0.2)

    async def run(answer: bytes | None) -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer or b"")
            if answer is not None:
                writer.write_eof()
            await reader.read()  # until the sender leaves
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def resolving(_host: str, _port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        try:
            await send(check_url(f"http://127.0.0.1:{port}/", ALLOW), SECRET, "msg_x", b"{}", ALLOW, resolving)
        finally:
            server.close()
            await asyncio.sleep(0.05)

    for answer in (None, b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 200_000):
        with pytest.raises(NotSent):
            asyncio.run(run(answer))


def test_an_allow_list_needs_a_secret(redis_url: str, tmp_path: Path) -> None:
    for secret in (None, "whsec_c2hvcnQ=", "plain"):
        with pytest.raises(ConfigurationError, match="LATENTD_WEBHOOK_SECRET"):
            create_app(settings_for(redis_url, tmp_path, webhook_allow=ALLOW, webhook_secret=secret))


def test_the_gateway_itself_sends(redis_server: RedisServer, redis: Redis, tmp_path: Path) -> None:
    settings = settings_for(redis_server.url, tmp_path, webhook_allow=ALLOW, webhook_secret=SECRET_TEXT)
    with Receiver() as receiver, running(settings) as client:
        job_id = canceled(client, receiver.url)
        assert json.loads(receiver.wait(1)[0].body)["data"]["id"] == job_id
    assert redis.xlen(OUTBOX_KEY) in (0, 1)


def test_consumers_of_gateways_that_have_ended_are_deleted(
    client: httpx2.Client, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.webhooks.outbox.FORGOTTEN_MS", 200)
    redis.xgroup_create(OUTBOX_KEY, GROUP, id="0", mkstream=True)
    redis.xgroup_createconsumer(OUTBOX_KEY, GROUP, "ended")
    canceled(client, "http://127.0.0.1:9/")
    redis.xreadgroup(GROUP, "ended with one", {OUTBOX_KEY: ">"})
    time.sleep(0.5)

    def names() -> set[str]:
        found: Any = redis.xinfo_consumers(OUTBOX_KEY, GROUP)
        return {as_text(consumer["name"]) for consumer in found}

    assert len(names()) == 2
    sent_by(redis_url, lambda: len(names()) == 2 and "ended" not in names())
    assert "ended with one" in names(), "its message is another's to claim first"
