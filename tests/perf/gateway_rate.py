"""How fast the gateway takes jobs, beside a bare FastAPI application that does one Redis push per request.

`python -m tests.perf.gateway_rate`. Both are served by the same uvicorn over the same Redis; rounds take turns, so that
whatever else the machine does meets both. Rates are given by wall clock and, which other load changes little, by the
server's own CPU seconds. Neither writes log lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from tests.gateway import PAINTER, write_cards
from tests.redis_server import RedisServer
from tests.service import free_port
from tests.waits import wait_for

BODY = json.dumps({"prompt": "red heart on a navy background", "seed": 7, "steps": 20}).encode()
TICKS = os.sysconf("SC_CLK_TCK")


def bare(redis_url: str) -> FastAPI:
    """The least that a gateway could do."""
    app, redis = FastAPI(), Redis.from_url(redis_url, max_connections=8192)

    @app.post("/v1/txt2img", status_code=202)
    async def push(body: dict[str, object]) -> dict[str, str]:
        await redis.rpush("bare", json.dumps(body))
        return {"status": "queued"}

    return app


@dataclass(slots=True)
class Side:
    """One of the two servers, and what was measured of it."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    rates: list[float] = field(default_factory=list)  # requests a second
    cpu_rates: list[float] = field(default_factory=list)  # requests a second of its CPU
    latencies: list[float] = field(default_factory=list)  # seconds, at the steady rate

    def cpu_s(self) -> float:
        """User and system seconds of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def start(name: str, server: RedisServer, folder: Path) -> Side:
    """A gateway (or the bare application) on a port of its own, answering."""
    port = free_port()
    settings = {
        "REDIS_URL": server.url,
        "LATENTD_PORT": str(port),
        "LATENTD_DATA_DIR": str(folder / "data"),
        "LATENTD_MODELS_DIR": str(folder / "models"),
        "LATENTD_MODEL": PAINTER.id,
        "LATENTD_QUEUE_LIMIT": "1000000",
        "LATENTD_LOG_LEVEL": "warning",
    }
    module = (
        ["latentd", "gateway"] if name == "gateway" else ["tests.perf.gateway_rate", "--bare", server.url, str(port)]
    )
    process = subprocess.Popen([sys.executable, "-m", *module], env=os.environ | settings)
    side = Side(name, port, process)
    wait_for(lambda: asyncio.run(answers(port)), 60, f"{name} to answer")
    return side


async def answers(port: int) -> bool:
    client = Connection(port)
    try:
        return await client.post() > 0
    except OSError:
        return False
    finally:
        await client.close()


class Connection:
    """A kept-alive connection that posts one body again and again, as cheaply as Python can."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        head = f"POST /v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY

    async def post(self) -> float:
        """Seconds until the answer was read; raises RuntimeError unless it is 202."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        began = time.perf_counter()
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if b" 202 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"{head!r} {body!r}")
        return time.perf_counter() - began

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()


async def flood(side: Side, requests: int, connections: int) -> None:
    """As many as it takes, `connections` at a time."""
    clients = [Connection(side.port) for _ in range(connections)]

    async def post_all(client: Connection) -> None:
        for _ in range(requests // connections):
            await client.post()

    cpu, began = side.cpu_s(), time.perf_counter()
    await asyncio.gather(*(post_all(client) for client in clients))
    seconds = time.perf_counter() - began
    await asyncio.gather(*(client.close() for client in clients))
    side.rates.append(requests / seconds)
    side.cpu_rates.append(requests / max(side.cpu_s() - cpu, 1 / TICKS))


async def pace(side: Side, seconds: float, rate: float) -> None:
    """A steady `rate` of requests, each when its time has come whatever the others do."""
    idle = [Connection(side.port) for _ in range(8)]

    async def one(at: float) -> None:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        client = idle.pop() if idle else Connection(side.port)
        side.latencies.append(await client.post())
        idle.append(client)

    began = time.perf_counter()
    await asyncio.gather(*(one(began + index / rate) for index in range(int(seconds * rate))))
    await asyncio.gather(*(client.close() for client in idle))


@dataclass(frozen=True, slots=True)
class Figures:
    """What issue 6 asks for."""

    ratio: float  # the gateway's rate over the bare application's, by CPU seconds
    wall_ratio: float
    added_p99_s: float  # the gateway's p99 beyond the bare application's, at 100 requests/s
    sides: Sequence[Side]


def measure(rounds: int, requests: int, seconds: float) -> Figures:
    """Rounds in turn on both; `requests` each flooded, then `seconds` each at 100 requests a second."""
    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        write_cards(Path(folder) / "models", PAINTER)
        sides = [start(name, server, Path(folder)) for name in ("bare", "gateway")]
        try:
            for _ in range(rounds):
                for side in sides:
                    asyncio.run(flood(side, requests, 16))
                    asyncio.run(pace(side, seconds, 100))
                with server.connect() as redis:
                    redis.flushall()
        finally:
            for side in sides:
                side.process.terminate()
                side.process.wait()
    bare_side, gateway = sides
    return Figures(
        of_rounds(gateway.cpu_rates, bare_side.cpu_rates),
        of_rounds(gateway.rates, bare_side.rates),
        p99(gateway.latencies) - p99(bare_side.latencies),
        sides,
    )


def of_rounds(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the rounds' ratios: two that follow each other meet the same machine, which gets faster and slower."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def show(figures: Figures) -> Table:
    table = Table("server", "requests/s", "requests/CPU s", "p50 at 100/s", "p99 at 100/s")
    for side in figures.sides:
        milliseconds = [f"{1000 * value:.1f} ms" for value in (statistics.median(side.latencies), p99(side.latencies))]
        rates = [f"{statistics.median(values):.0f}" for values in (side.rates, side.cpu_rates)]
        table.add_row(side.name, *rates, *milliseconds)
    table.caption = (
        f"ratio {figures.ratio:.2f} by CPU, {figures.wall_ratio:.2f} by wall clock; "
        f"p99 added {1000 * figures.added_p99_s:.1f} ms"
    )
    return table


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        uvicorn.run(bare(sys.argv[2]), port=int(sys.argv[3]), log_level="warning", access_log=False)
    else:
        Console().print(show(measure(rounds=15, requests=800, seconds=2)))
