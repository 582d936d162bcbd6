"""The Python client at a gateway whose jobs wait, and whose connections break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from latentd_client import AsyncClient, Client, Refused

from tests.faults.proxy import Proxy

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


def until(ready: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < ends
        time.sleep(0.01)


def break_and_cancel(client: httpx2.Client, proxy: Proxy, seen: list[str]) -> None:
    """Break a job's stream after a silence longer than the client's patience, twice; then end the job."""
    until(lambda: bool(seen))
    for _ in range(2):
        time.sleep(PATIENCE_S + 0.2)
        before = proxy.accepted
        proxy.cut()
        until(lambda: proxy.accepted > before)  # noqa: B023 (called here)
    client.delete(f"/v1/jobs/{client.get('/v1/jobs').json()['items'][0]['id']}")


@pytest.mark.parametrize("following", [follow, follow_by_asyncio])
def test_a_quiet_stream_that_breaks_goes_on(client: httpx2.Client, following: Follow) -> None:
    seen: list[str] = []
    with Proxy(("127.0.0.1", client.base_url.port or 0)) as proxy, ThreadPoolExecutor(1) as pool:
        trouble = pool.submit(break_and_cancel, client, proxy, seen)
        following(f"http://127.0.0.1:{proxy.port}", seen)
        trouble.result()
    assert seen == ["queued", "canceled"]
