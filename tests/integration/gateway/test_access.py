"""API keys over HTTP with a real Redis: scopes, rates, budgets, whose jobs are whose, signed image URLs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from typer.testing import CliRunner

from contract.redis_keys import KEYS_KEY, events_key, gone_key, job_key, list_key, rate_key
from core.errors import ConfigurationError
from core.storage import open_store
from latentd.cli import app as commands
from service.app import create_app, serve
from service.auth import keys
from service.auth.keys import Scope
from tests.gateway import finish, png, running, settings_for
from tests.redis_server import RedisServer
from tests.starved import allowance
from tests.times import cells, publish


def bearer(redis: Redis, *scopes: Scope, rate: int | None = None, gpu_s: float | None = None) -> dict[str, str]:
    """Headers of a new key."""
    _, token = keys.create(redis, "test", scopes or ("generate", "read"), rate, gpu_s)
    return {"Authorization": f"Bearer {token}"}


def test_keys_are_off_until_one_is_made_and_stay_on_when_it_is_revoked(client: httpx2.Client, redis: Redis) -> None:
    assert client.get("/v1/jobs").status_code == 200
    key, token = keys.create(redis, "first", ["read"])
    headers = {"Authorization": f"Bearer {token}"}
    refused = client.get("/v1/jobs")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["field"] == "Authorization"
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert client.get(f"/v1/jobs?key={token}").status_code == 401
    keys.revoke(redis, key.id)
    assert client.get("/v1/jobs", headers=headers).status_code == 401
    keys.remove_all(redis)
    assert client.get("/v1/jobs").status_code == 200


def test_secrets_are_not_kept(client: httpx2.Client, redis: Redis) -> None:  # noqa: ARG001 (empties Redis)
    _, token = keys.create(redis, "first", ["read"])
    secret = token.split("_", 2)[2]
    assert len(secret) == 43  # 256 bits
    assert secret not in str(redis.hgetall(KEYS_KEY))


@pytest.mark.parametrize(
    "sent",
    [
        "Bearer",
        "Bearer x",
        "Bearer lat_",
        "Bearer lat_{id}_",
        "Bearer lat_{id}_wrong",
        "Basic {token}",
        "{token}",
        "Bearer {token}x",
        "Bearer lat_ffffffffffff_{secret}",
    ],
)
def test_other_tokens_are_refused(client: httpx2.Client, redis: Redis, sent: str) -> None:
    key, token = keys.create(redis, "first", ["admin"])
    value = sent.format(id=key.id, token=token, secret=token.split("_", 2)[2])
    answer = client.get("/v1/jobs", headers={"Authorization": value})
    assert answer.status_code == 401
    assert token not in answer.text


def test_every_call_but_the_open_ones_needs_a_key(redis_server: RedisServer, folder: Path, redis: Redis) -> None:
    """Also on a public address before any key was made."""
    settings = settings_for(redis_server.url, folder, host="192.0.2.1")
    app = create_app(settings)
    redis.flushall()
    opened = set()
    with running(settings, app) as client:
        for path, operations in app.openapi()["paths"].items():
            for method in operations:
                if client.request(method, path.replace("{id}", "x")).status_code != 401:
                    opened.add(path)
        for path in ("/", "/js/lib/api.js", "/docs.js"):
            assert client.get(path).status_code == 200
        for path in ("/v1/txt2img", "/v1/jobs/x", "/v1/images/x-0", "/metrics", "/openapi.json"):
            assert client.get(path).status_code in (401, 405)
    assert opened == {"/livez", "/readyz"}
    assert redis.dbsize() == 0


def test_scopes(client: httpx2.Client, redis: Redis) -> None:
    read, generate = bearer(redis, "read"), bearer(redis, "generate")
    metrics, admin = bearer(redis, "metrics"), bearer(redis, "admin")
    post = {"json": {"prompt": "x"}}
    assert client.post("/v1/txt2img", headers=generate, **post).status_code == 202  # type: ignore[arg-type]
    refused = client.post("/v1/txt2img", headers=read, **post)  # type: ignore[arg-type]
    assert (refused.status_code, refused.json()["bound"]) == (403, "generate")
    assert client.get("/v1/models", headers=generate).status_code == 403
    assert client.get("/v1/models", headers=read).status_code == 200
    for path, headers, status in (
        ("/metrics", read, 403),
        ("/metrics", metrics, 200),
        ("/metrics", admin, 200),
        ("/v1/jobs", metrics, 403),
        ("/v1/jobs", admin, 200),
    ):
        assert client.get(path, headers=headers).status_code == status
    assert client.delete("/v1/jobs/x", headers=read).status_code == 403


def test_a_key_without_read_gets_no_image(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    """Neither as an answer, nor by a URL in one: of a job that is waited for, canceled, or made again."""
    headers = bearer(redis, "generate")
    refused = client.post("/v1/txt2img", json={}, headers=headers | {"Accept": "image/png"})
    assert (refused.status_code, refused.json()["bound"]) == (403, "read")
    once = headers | {"Idempotency-Key": "once", "Prefer": "wait=1"}
    job_id = client.post("/v1/txt2img", json={}, headers=once | {"Prefer": "wait=0"}).json()["id"]
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
    for answer in (
        client.post("/v1/txt2img", json={}, headers=once),
        client.delete(f"/v1/jobs/{job_id}", headers=headers),
    ):
        assert answer.status_code == 200
        (image,) = answer.json()["images"]
        assert image["url"] == f"/v1/images/{job_id}-0"
        assert client.get(image["url"]).status_code == 401
        assert client.get(image["url"], headers=headers).status_code == 403
    picture = bearer(redis, "generate", "read") | {"Accept": "image/png", "Prefer": "wait=0"}
    assert client.post("/v1/txt2img", json={}, headers=picture).status_code == 202


def test_another_keys_jobs_do_not_exist(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    a, b, admin = bearer(redis), bearer(redis), bearer(redis, "admin")
    ids = [client.post("/v1/txt2img", json={"prompt": "x"}, headers=a).json()["id"] for _ in range(4)]
    running_job, done, purged, expired = ids
    store = open_store(str(folder / "data" / "objects"))
    for job_id in (done, purged):
        finish(redis, store, job_id, png((64, 64)))
    assert client.delete(f"/v1/jobs/{purged}?purge=true", headers=a).status_code == 204
    redis.delete(job_key(expired), events_key(expired))
    for job_id in [*ids, "f" * 32]:
        for path in (f"jobs/{job_id}", f"jobs/{job_id}/events", f"jobs/{job_id}/deliveries", f"images/{job_id}-0"):
            answer = client.get(f"/v1/{path}", headers=b)
            assert answer.status_code == 404, path
            assert answer.json()["detail"] == f"no job {job_id!r}"
        for query in ("", "?purge=true"):
            assert client.delete(f"/v1/jobs/{job_id}{query}", headers=b).status_code == 404
    assert client.get("/v1/jobs", headers=b).json()["items"] == []
    assert {job["id"] for job in client.get("/v1/jobs", headers=a).json()["items"]} == {running_job, done}
    assert {job["id"] for job in client.get("/v1/jobs", headers=admin).json()["items"]} == {running_job, done}
    for headers in (a, admin):
        assert client.get(f"/v1/jobs/{running_job}", headers=headers).status_code == 200
        assert client.get(f"/v1/jobs/{purged}", headers=headers).status_code == 410
    for job_id in (purged, expired):
        assert client.get(f"/v1/jobs/{job_id}", headers=b).status_code == 404
    assert redis.get(gone_key(purged)) != b""


def test_jobs_made_without_keys_are_the_admins(client: httpx2.Client, redis: Redis) -> None:
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}).json()["id"]
    assert client.get(f"/v1/jobs/{job_id}", headers=bearer(redis)).status_code == 404
    assert client.get(f"/v1/jobs/{job_id}", headers=bearer(redis, "admin")).status_code == 200


def test_idempotency_keys_are_each_keys_own(client: httpx2.Client, redis: Redis) -> None:
    a, b = bearer(redis), bearer(redis)
    mine = {"Idempotency-Key": "same"}
    first = client.post("/v1/txt2img", json={"prompt": "x"}, headers=a | mine).json()["id"]
    assert client.post("/v1/txt2img", json={"prompt": "x"}, headers=a | mine).json()["id"] == first
    other = client.post("/v1/txt2img", json={"prompt": "another body"}, headers=b | mine)
    assert other.status_code == 202
    assert other.json()["id"] != first


def test_image_urls_are_signed_and_open_that_image_alone(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    a, b = bearer(redis), bearer(redis)
    store, data = open_store(str(folder / "data" / "objects")), png((64, 64))
    ids = [client.post("/v1/txt2img", json={"prompt": "x"}, headers=a).json()["id"] for _ in range(2)]
    for job_id in ids:
        finish(redis, store, job_id, data)
    url = client.get(f"/v1/jobs/{ids[0]}", headers=a).json()["images"][0]["url"]
    assert client.get(url).content == data
    assert "attachment" in client.get(url + "&download").headers["content-disposition"]
    assert client.get(url.partition("?")[0]).status_code == 401
    assert client.get(url.partition("?")[0], headers=a).content == data
    assert client.get(url, headers=b).status_code == 404
    assert client.get(url.replace(ids[0], ids[1])).status_code == 403
    assert client.get(url.replace("expires=", "expires=9")).status_code == 403
    assert client.get(f"/v1/jobs/{ids[0]}?{url.partition('?')[2]}").status_code == 401
    assert client.get(url.partition("&")[0] + "&signature=%C3%A9").status_code == 403
    listed = client.get("/v1/jobs", headers=a).json()["items"][1]["images"][0]["url"]
    assert listed == url


def test_an_expired_url_is_refused(
    client: httpx2.Client, redis: Redis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = bearer(redis)
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}, headers=a).json()["id"]
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
    monkeypatch.setattr("service.auth.signing.PERIOD_S", -3600)
    url = client.get(f"/v1/jobs/{job_id}", headers=a).json()["images"][0]["url"]
    answer = client.get(url)
    assert (answer.status_code, answer.json()["field"]) == (403, "expires")


def test_events_carry_signed_urls(client: httpx2.Client, redis: Redis, folder: Path) -> None:
    a = bearer(redis)
    job_id = client.post("/v1/txt2img", json={"prompt": "x"}, headers=a).json()["id"]
    redis.xadd(events_key(job_id), {"type": "image", "data": f'{{"url": "/v1/images/{job_id}-0"}}'})
    finish(redis, open_store(str(folder / "data" / "objects")), job_id, png((64, 64)))
    text = client.get(f"/v1/jobs/{job_id}/events", headers=a).text
    assert f"/v1/images/{job_id}-0?expires=" in text
    assert "signature=" in text


@pytest.mark.parametrize("end", [keys.revoke, lambda redis, _id: keys.remove_all(redis)])
def test_a_key_that_is_revoked_or_removed_loses_its_open_streams(
    client: httpx2.Client, redis: Redis, end: Callable[[Redis, str], object]
) -> None:
    headers = bearer(redis, "generate", "read")
    key_id = headers["Authorization"].split("_")[1]
    assert seconds_of_stream(client, redis, headers, lambda: end(redis, key_id)) < 15


def test_a_key_that_expires_is_refused_and_loses_its_open_streams(client: httpx2.Client, redis: Redis) -> None:
    key, token = keys.create(redis, "guest", ["generate", "read"], lifetime=timedelta(seconds=6))
    assert key.expires_at is not None
    headers = {"Authorization": f"Bearer {token}"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200
    assert seconds_of_stream(client, redis, headers, lambda: None) < 6 + 15
    refused = client.get("/v1/jobs", headers=headers)
    assert (refused.status_code, refused.json()["field"]) == (401, "Authorization")
    assert "expired" in refused.json()["detail"]
    assert client.get("/v1/jobs").status_code == 401  # it turned keys on, and they stay on


def seconds_of_stream(
    client: httpx2.Client, redis: Redis, headers: dict[str, str], then: Callable[[], object]
) -> float:
    """How long a stream that is never silent stays open after `then`, without what a busy machine takes of it."""
    job = client.post("/v1/txt2img", json={"prompt": "red heart"}, headers=headers).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events", headers=headers, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id:")
        then()
        allowed, began = allowance(os.getpid()), time.monotonic()
        for step in range(1000):
            redis.xadd(events_key(job["id"]), {"type": "step", "data": json.dumps({"step": step, "steps": 1000})})
            if list(takewhile(bool, lines)) == [] or time.monotonic() - began > 60:
                break
            time.sleep(0.05)
        return time.monotonic() - began - allowed()


def test_rates_are_exact_and_say_when_to_come_back(client: httpx2.Client, redis: Redis) -> None:
    headers = bearer(redis, rate=5)
    answers = [client.get("/v1/models", headers=headers) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    refused = answers[-1]
    assert refused.json()["type"] == "urn:latentd:problem:rate-limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 12
    assert client.get("/v1/models", headers=bearer(redis)).status_code == 200


def test_a_clock_that_was_set_back_locks_nobody_out(client: httpx2.Client, redis: Redis) -> None:
    key, token = keys.create(redis, "steady", ["read"], requests_per_minute=60)
    redis.set(rate_key(key.id), time.time() + 3600)
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_key_with_a_rate_reads_in_a_full_redis(tmp_path: Path) -> None:
    with RedisServer() as server, server.connect() as redis:
        headers = bearer(redis, rate=60)
        with running(settings_for(server.url, tmp_path)) as client:
            assert client.get("/v1/jobs", headers=headers).status_code == 200  # which draws the deployment's secret
            redis.config_set("maxmemory", "1")
            assert [client.get("/v1/jobs", headers=headers).status_code for _ in range(2)] == [200, 200]
            assert client.post("/v1/txt2img", json={}, headers=headers).status_code == 503


def test_gpu_seconds_are_counted_by_the_day(client: httpx2.Client, redis: Redis) -> None:
    publish(redis, "painter", cells(row_s=0.1, decode=0.5))
    headers = bearer(redis, gpu_s=10)
    request = {"prompt": "x", "steps": 20}  # 20 steps of 2 rows and an image: 4.5 s

    def post(**fields: object) -> httpx2.Response:
        return client.post("/v1/txt2img", json=request | fields, headers=headers)

    first, second = post(), post()
    assert (first.status_code, second.status_code) == (202, 202)
    third = post()
    assert (third.status_code, third.json()["type"]) == (429, "urn:latentd:problem:rate-limited")
    assert 1 <= int(third.headers["retry-after"]) <= 86_400
    assert client.delete(f"/v1/jobs/{second.json()['id']}", headers=headers).status_code == 200
    assert post().status_code == 202
    never = post(steps=100)
    assert (never.status_code, never.json()["bound"]) == (422, "10 GPU-seconds")
    planned = client.post("/v1/txt2img?dry_run=true", json=request | {"steps": 100}, headers=headers)
    assert planned.json() == never.json()
    assert redis.zcard(list_key(headers["Authorization"].split("_")[1])) == 3


def test_a_public_address_needs_a_key_to_start(redis_server: RedisServer, folder: Path, redis: Redis) -> None:
    redis.flushall()
    with pytest.raises(ConfigurationError, match="latentd keys create"):
        serve(settings_for(redis_server.url, folder, host="192.0.2.1", port=1))
    keys.create(redis, "first", ["read"])
    with pytest.raises(ConfigurationError, match="LATENTD_PORT"):  # past the check: the address isn't this machine's
        serve(settings_for(redis_server.url, folder, host="192.0.2.1", port=1))


def test_commands_make_list_and_revoke(redis: Redis, redis_url: str) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(commands, ["keys", *words], env={"REDIS_URL": redis_url, "COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.output

    token = run("create", "phone", "--scope", "read", "--rate", "60").splitlines()[0]
    key_id = token.split("_")[1]
    listed = run("list")
    assert key_id in listed
    assert "60" in listed
    assert token.split("_", 2)[2] not in listed
    run("revoke", key_id)
    assert "until 20" in run("create", "guest", "--expires-in", "30d")
    guest = keys.all_keys(redis)[-1]
    assert guest.expires_at == guest.created_at + timedelta(days=30)
    assert f"{guest.expires_at:%Y-%m-%d %H:%M}" in run("list")
    for wrong in ("30", "0s", "1w", "-1d", "4000d", "999999999d"):
        words = ["keys", "create", "x", f"--expires-in={wrong}"]
        refused = CliRunner().invoke(commands, words, env={"REDIS_URL": redis_url, "COLUMNS": "200"})
        assert (refused.exit_code, "is no time from 1s to 3650d" in refused.output) == (2, True), refused.output
    key, _ = keys.all_keys(redis)
    assert (key.name, key.scopes, key.revoked_at is None) == ("phone", ("read",), False)
    assert "2 keys removed" in run("clear")
