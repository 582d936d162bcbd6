"""Clients over HTTP, one thread each: every request leaves at its time, whatever became of those before it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeAlias

from contract.request import JobRequest
from core.errors import LatentdError
from core.pictures import lossless
from latentd.bench.serve.load import Timed
from latentd.bench.step_times import admission

Prepare: TypeAlias = Callable[[JobRequest], tuple[str, dict[str, Any]]]

TIMEOUT_S = 3600.0
FIELDS = ("prompt", "seed", "steps", "guidance_scale", "width", "height")
PNG = b"\x89PNG"


class NoPicture(LatentdError):
    """A server of the bench answered something else than a picture."""

    slug, title = "no-picture", "No picture"


def body_of(request: JobRequest) -> dict[str, Any]:
    """What is posted: the fields that all servers read, and uploads in base64."""
    sent = {name: value for name, value in request.model_dump(mode="json").items() if name in FIELDS}
    pictures = admission("", request).pictures
    return sent | {name: base64.b64encode(lossless(picture)).decode() for name, picture in pictures.items()}


def for_latentd(request: JobRequest) -> tuple[str, dict[str, Any]]:
    """Path and body of a request to latentd; an upload says how large the picture is."""
    body = body_of(request)
    sizes = ("width", "height") if request.files else ()
    kept = {name: value for name, value in body.items() if name not in sizes}
    return f"/v1/{request.kind}", kept | {"model": request.model}


def for_peer(request: JobRequest) -> tuple[str, dict[str, Any]]:
    """Path and body of a request to a peer."""
    return "/predict", body_of(request) | {"kind": request.kind}


def play(port: int, prepare: Prepare, jobs: Sequence[Timed]) -> list[float]:
    """Post every job at its time and wait for its picture; what each client waited, in seconds.

    Raises:
        NoPicture: an answer is none.
    """
    calls = [(path, json.dumps(body).encode()) for path, body in (prepare(job.request) for job in jobs)]
    began = time.perf_counter()

    def one(number: int) -> float:
        at, (path, body) = jobs[number].at, calls[number]
        time.sleep(max(0.0, began + at - time.perf_counter()))
        _picture(port, path, body)
        return time.perf_counter() - began - at

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(one, range(len(jobs))))


def _picture(port: int, path: str, body: bytes) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "image/png"}
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if not data.startswith(PNG):
        raise NoPicture(f"POST {path} answered {answer.status}: {data[:300].decode('utf-8', 'replace')}")
    return data


def is_up(port: int) -> bool:
    """Whether a peer serves."""
    return _get(port, "/health") is not None


def loaded(port: int) -> bool:
    """Whether latentd serves, with its models in memory."""
    if _get(port, "/readyz") is None or (models := _get(port, "/v1/models")) is None:
        return False
    items = json.loads(models)["items"]
    return bool(items) and all(model["loaded"] for model in items)


def _get(port: int, path: str) -> bytes | None:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
