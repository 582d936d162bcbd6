"""The Python client at a gateway whose jobs wait, and whose connections break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx2
import pytest
from latentd_client import AsyncClient, Client, ClientError, Refused, Unreachable, asynchronous, synchronous

from tests.faults.proxy import Proxy
from tests.waits import wait_for

PATIENCE_S = 3.0
Follow = Callable[[str, list[str]], None]


def follow(server: str, seen: list[str]) -> None:
    """Note the types of a new job's events as they come."""
    with Client(server, patience_s=PATIENCE_S) as client:
        for event in client.events(client.submit("txt2img", prompt="x")):
            seen.append(event.type)


async def _follow(server: str, seen: list[str]) -> None:
    async with AsyncClient(server, patience_s=PATIENCE_S) as client:
        job = await client.submit("txt2img", prompt="x")
        async for event in client.events(job):
            seen.append(event.type)


def follow_by_asyncio(server: str, seen: list[str]) -> None:
    asyncio.run(_follow(server, seen))


def purge(server: str) -> None:
    with Client(server, patience_s=5) as client:
        client.purge(next(client.jobs()))


async def _purge(server: str) -> None:
    async with AsyncClient(server, patience_s=5) as client:
        async for job in client.jobs():
            await client.purge(job)


def purge_by_asyncio(server: str) -> None:
    asyncio.run(_purge(server))


@pytest.mark.parametrize("remove", [purge, purge_by_asyncio])
def test_a_purge_whose_answer_is_lost_succeeds(client: httpx2.Client, remove: Callable[[str], None]) -> None:
    job_id = client.post("/v1/txt2img", json={}).json()["id"]
    client.delete(f"/v1/jobs/{job_id}")
    with Proxy(("127.0.0.1", client.base_url.port or 0)) as proxy:
        proxy.lose_answer_to = b"purge=true"
        remove(f"http://127.0.0.1:{proxy.port}")
        assert proxy.lose_answer_to == b""
    assert client.get(f"/v1/jobs/{job_id}").status_code == 410


def test_a_purge_of_a_job_that_waits_is_refused(client: httpx2.Client) -> None:
    client.post("/v1/txt2img", json={})
    with pytest.raises(Refused) as refused:
        purge(str(client.base_url))
    assert refused.value.problem.status == 409


def test_a_redirect_turns_no_post_into_a_get(client: httpx2.Client) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(301)
            self.send_header("Location", f"{client.base_url}/v1/txt2img")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as before:
        Thread(target=before.serve_forever, daemon=True).start()
        with (
            Client(f"http://127.0.0.1:{before.server_port}") as asking,
            pytest.raises(Unreachable, match=r"a redirect to http://.*/v1/txt2img: use the address of that"),
        ):
            asking.submit("txt2img", prompt="x")
        before.shutdown()


def test_a_key_from_a_file_ends_in_a_newline(client: httpx2.Client) -> None:
    with Client(str(client.base_url), api_key="lat_0123\n") as asking:
        assert asking.models()


@pytest.mark.parametrize(
    ("server", "key", "told"),
    [
        ("localhost:8000", "", "'localhost:8000' is no address of a service; one is 'http://127.0.0.1:8000'"),
        ("http://[::1", "", "is no address of a service"),
        (None, "lat_…", "characters that no key has"),
    ],
)
def test_what_can_be_no_address_or_key_is_said_at_once(server: str | None, key: str, told: str) -> None:
    with pytest.raises(ClientError, match=told):
        Client(server, api_key=key)


def break_and_cancel(client: httpx2.Client, proxy: Proxy, seen: list[str]) -> None:
    """Break a job's stream after a silence longer than the client's patience, twice; then end the job."""
    wait_for(lambda: seen, 60, "an event")
    for _ in range(2):
        time.sleep(PATIENCE_S + 0.2)
        before = proxy.accepted
        proxy.cut()
        wait_for(lambda: proxy.accepted > before, 60, "a new connection")  # noqa: B023 (called here)
    client.delete(f"/v1/jobs/{client.get('/v1/jobs').json()['items'][0]['id']}")


@pytest.mark.parametrize("following", [follow, follow_by_asyncio])
def test_a_stream_that_a_proxy_holds_back_is_asked_for_again(
    client: httpx2.Client, following: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for module in (synchronous, asynchronous):
        monkeypatch.setattr(module, "SILENCE_S", 0.3)
    with Proxy(("127.0.0.1", client.base_url.port or 0)) as proxy, ThreadPoolExecutor(1) as pool:
        proxy.hold_answers_to = b"/events"
        running = pool.submit(following, f"http://127.0.0.1:{proxy.port}", seen)
        wait_for(lambda: proxy.held >= 7 or running.done(), 60, "silence")  # for longer than its patience
        client.delete(f"/v1/jobs/{client.get('/v1/jobs').json()['items'][0]['id']}")
        proxy.hold_answers_to = b""
        running.result()
    assert seen == ["queued", "canceled"]


@pytest.mark.parametrize("following", [follow, follow_by_asyncio])
def test_a_quiet_stream_that_breaks_goes_on(client: httpx2.Client, following: Follow) -> None:
    seen: list[str] = []
    with Proxy(("127.0.0.1", client.base_url.port or 0)) as proxy, ThreadPoolExecutor(1) as pool:
        trouble = pool.submit(break_and_cancel, client, proxy, seen)
        following(f"http://127.0.0.1:{proxy.port}", seen)
        trouble.result()
    assert seen == ["queued", "canceled"]
