"""A fuzz of the gateway: a real process with a real Redis, a key, a waiting job and one that ended."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from redis import Redis

from contract.card import LayoutCard, ModelCard
from contract.job import image_id
from core.storage import open_store
from service.auth.keys import create
from tests.fuzz.making import Request, make
from tests.fuzz.wire import Answer, ask
from tests.gateway import PAINTER, UPSCALER, finish, png, settings_for
from tests.gateway_process import GatewayProcess
from tests.redis_server import RedisServer
from tests.starved import allowance

AT_ONCE = 8
SLOWEST_S = 5.0
WAIT_S = 1.0  # what `Prefer: wait` and `Accept: image/*` may take of it; nobody draws
TRUE = (503, 507)  # told of the service, not of the request: Redis away, decoders busy, disk full
CARDS: tuple[ModelCard, ...] = (
    PAINTER.model_copy(update={"tasks": ("txt2img", "inpaint", "img2img")}),
    UPSCALER,
    PAINTER.model_copy(
        update={
            "id": "classes",
            "tasks": ("class2img", "semantic2img", "layout2img"),
            "layout": LayoutCard(vocabulary=102, length=5),
            "class_names": ("cat", "dog"),
            "map_classes": 4,
            "tokenizer": None,
            "token_window": None,
        }
    ),
)


@dataclass(slots=True)
class Report:
    """What was seen."""

    statuses: Counter[int] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)  # seconds and the request's number
    complaints: list[str] = field(default_factory=list)

    def add(self, number: int, request: Request, answer: Answer) -> None:
        """Note one answer."""
        self.statuses[answer.status] += 1
        self.slowest = max(self.slowest, (answer.seconds, number))
        complaint = _complaint(request, answer)
        if complaint:
            self.complaints.append(f"request {number}: {complaint}: {request.encode()[:300]!r}")

    def lines(self) -> list[str]:
        """For people."""
        counts = ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(self.statuses.items()))
        seconds, number = self.slowest
        return [f"answers: {counts}", f"slowest: {seconds:.2f} s (request {number})", *self.complaints]


def _complaint(request: Request, answer: Answer) -> str:
    if answer.status >= 500 and answer.status not in TRUE:
        return f"answered {answer.status} {answer.body[:300]!r}"
    if b"Traceback" in answer.body:
        return "answered a traceback"
    if answer.status >= 400 and answer.body and answer.media != "application/problem+json":
        return f"a refusal as {answer.media!r}"
    if request.whole and not answer.status:
        return "no answer"
    if request.whole and answer.seconds > SLOWEST_S:
        return f"answered after {answer.seconds:.1f} s"
    return ""


def fuzz(seed: int, numbers: range, folder: Path, tell: Callable[[str], None]) -> Report:
    """Send these requests of a seed; the service must still answer afterwards."""
    with RedisServer() as server, server.connect() as redis:
        settings = settings_for(server.url, folder, *CARDS)
        variables = {"LATENTD_MODEL": "painter", "LATENTD_MAX_WAIT_S": str(WAIT_S), "LATENTD_QUEUE_LIMIT": "1000000"}
        gateway = GatewayProcess(server.url, folder, **variables)
        try:
            gateway.wait()
            known = _prepare(redis, gateway, settings.storage)
            report = asyncio.run(_send(gateway, known, seed, numbers, tell))
            if gateway.process.poll() is not None:
                report.complaints.append(f"the gateway ended with {gateway.process.returncode}")
            elif gateway.client.get("/readyz").status_code != 200:
                report.complaints.append("the gateway isn't ready afterwards")
        finally:
            gateway.stop()
    return report


def _prepare(redis: Redis, gateway: GatewayProcess, storage: str) -> Mapping[bytes, bytes]:
    """Make a key and two jobs; what stands for them in requests."""
    _, token = create(redis, "fuzz", ("admin",))
    headers = {"Authorization": f"Bearer {token}"}
    jobs = [gateway.client.post("/v1/txt2img", json={"prompt": "heart"}, headers=headers).json() for _ in range(2)]
    waiting, ended = (str(job["id"]) for job in jobs)
    finish(redis, open_store(storage), ended, png())
    ids = {"key": token, "job": waiting, "ended": ended, "image": image_id(ended, 0)}
    return {b"{%b}" % name.encode(): value.encode() for name, value in ids.items()}


async def _send(
    gateway: GatewayProcess, known: Mapping[bytes, bytes], seed: int, numbers: range, tell: Callable[[str], None]
) -> Report:
    report, left, allowed = Report(), iter(numbers), allowance(gateway.process.pid)
    port = gateway.client.base_url.port
    assert port is not None

    async def work() -> None:
        for number in left:
            request = make(seed, number)
            data = request.encode()
            for name, value in known.items():
                data = data.replace(name, value)
            before = allowed()
            answer = await ask(port, data, whole=request.whole, head=request.method == "HEAD")
            seconds = answer.seconds - (allowed() - before)
            report.add(number, request, replace(answer, seconds=seconds))
            if number % 1000 == 999:
                tell(f"{number + 1} requests")

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return report


def default_seed() -> int:
    """Another with each run, unless one is named."""
    return int.from_bytes(os.urandom(3))
