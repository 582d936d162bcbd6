"""What one gateway core serves: its CPU milliseconds for what clients do, and how many jobs a second that makes.

python -m tests.perf.gateway_limits

A job has STEPS steps and one image; BATCH jobs run at once, as in a full call. Workers are played by this script, which
writes their events into the same Redis.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx2
from redis import Redis
from rich.console import Console
from rich.table import Table

from contract.redis_keys import events_key
from core.storage import Store, open_store
from tests.gateway import PAINTER, finish, write_cards
from tests.perf.gateway_rate import Side, start
from tests.redis_server import RedisServer

STEPS, STEP_S = 50, 0.02
BATCH = 8
IMAGE = bytes(range(256)) * 400  # 100 kB, as a 256² PNG or a 512² WebP has

Client = httpx2.AsyncClient
Act = Callable[[Client, str], Awaitable[object]]  # what a client does with its job


class Played:
    """Jobs of a gateway process, and a worker of this script's."""

    def __init__(self, side: Side, redis: Redis, store: Store) -> None:
        self._side = side
        self._redis = redis
        self._store = store

    async def post(self, client: Client, **headers: str) -> str:
        answer = await client.post("/v1/txt2img", json={"prompt": "red heart", "steps": STEPS}, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])

    def work(self, job_ids: Sequence[str]) -> None:
        """Steps of all jobs in shared rounds, then their ends."""
        for step in range(1, STEPS + 1):
            due = time.monotonic() + STEP_S
            with self._redis.pipeline() as pipe:
                for job_id in job_ids:
                    pipe.xadd(events_key(job_id), {"type": "step", "data": f'{{"step": {step}, "steps": {STEPS}}}'})
                pipe.execute()
            time.sleep(max(0.0, due - time.monotonic()))
        for job_id in job_ids:
            finish(self._redis, self._store, job_id, IMAGE)

    def cost_ms(self, times: int, each: int, act: Callable[[Client], Coroutine[Any, Any, object]]) -> float:
        """The gateway's CPU milliseconds of one of the `each` things that `act` does."""

        async def run() -> None:
            limits = httpx2.Limits(max_connections=4 * BATCH, max_keepalive_connections=4 * BATCH)
            base = f"http://127.0.0.1:{self._side.port}"
            async with Client(base_url=base, timeout=60, trust_env=False, limits=limits) as client:
                for _ in range(times):
                    await act(client)

        began = self._side.cpu_s()
        asyncio.run(run())
        return 1000 * (self._side.cpu_s() - began) / times / each

    async def watched(self, client: Client, watch: Act) -> None:
        """BATCH jobs, each followed by `watch` from before its first step to its end."""
        job_ids = [await self.post(client) for _ in range(BATCH)]
        watching = [asyncio.create_task(self._call(watch, client, job_id)) for job_id in job_ids]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(self.work, job_ids)
        await asyncio.gather(*watching)

    @staticmethod
    async def _call(act: Act, client: Client, job_id: str) -> None:
        await act(client, job_id)


async def stream(client: Client, job_id: str) -> None:
    """All events of a job, to the last."""
    async with client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        kinds = [line.removeprefix("event: ") async for line in answer.aiter_lines() if line.startswith("event: ")]
    assert kinds.count("step") == STEPS, kinds
    assert kinds[-1] == "succeeded", kinds


async def poll(client: Client, job_id: str) -> None:
    """The job, every half second, until it has ended."""
    while (await client.get(f"/v1/jobs/{job_id}")).json()["status"] != "succeeded":
        await asyncio.sleep(0.5)


def measure(played: Played) -> dict[str, float]:
    """CPU milliseconds of the gateway, by what is done."""
    ended: list[str] = []

    async def post(client: Client) -> None:
        ended.extend(await asyncio.gather(*(played.post(client) for _ in range(BATCH))))

    async def wait(client: Client) -> None:
        """`Prefer: wait` with an Idempotency-Key, so that the job's id is known before its answer."""
        keys = [f"{len(ended)}-{time.monotonic_ns()}-{number}" for number in range(BATCH)]
        job_ids = [await played.post(client, **{"Idempotency-Key": key}) for key in keys]
        headers = [{"Idempotency-Key": key, "Prefer": "wait=60"} for key in keys]
        waiting = [asyncio.create_task(played.post(client, **each)) for each in headers]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(played.work, job_ids)
        await asyncio.gather(*waiting)

    async def get(client: Client, path: str) -> None:
        answers = await asyncio.gather(*(client.get(path.format(id=job_id)) for job_id in ended[:BATCH]))
        assert all(answer.status_code == 200 for answer in answers)

    costs = {"a job posted": played.cost_ms(40, BATCH, post)}
    played.work(ended[:BATCH])
    costs["its state read"] = played.cost_ms(40, BATCH, lambda client: get(client, "/v1/jobs/{id}"))
    costs["its image fetched"] = played.cost_ms(40, BATCH, lambda client: get(client, "/v1/images/{id}-0"))
    posted = costs["a job posted"]
    costs["waited for (Prefer: wait)"] = played.cost_ms(8, BATCH, wait) - 2 * posted
    costs["polled each 0.5 s"] = played.cost_ms(8, BATCH, lambda c: played.watched(c, poll)) - posted
    costs["followed (event stream)"] = played.cost_ms(8, BATCH, lambda c: played.watched(c, stream)) - posted
    return costs


def show(costs: dict[str, float]) -> Table:
    table = Table(f"a job of {STEPS} steps", "ms of the gateway")
    for what, cost in costs.items():
        table.add_row(what, f"{cost:.2f}")
    both = costs["a job posted"] + costs["its image fetched"]
    for what in ("waited for (Prefer: wait)", "polled each 0.5 s", "followed (event stream)"):
        table.add_row(f"posted, {what}, fetched", f"{1000 / (both + costs[what]):.0f} jobs a second a core")
    return table


def main() -> None:
    with RedisServer() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cards(folder / "models", PAINTER)
        side = start("gateway", server, folder)
        try:
            store = open_store(str(folder / "data" / "objects"))
            Console(highlight=False).print(show(measure(Played(side, server.connect(), store))))
        finally:
            side.process.terminate()
            side.process.wait()


if __name__ == "__main__":
    main()
